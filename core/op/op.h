#pragma once
// Ops: declared once (contract, references, cost), with kernels attached from any source file.
//
//   // core/ops/scale/scale.h: no packages, so that device code can include it
//   struct Scale {
//     template <class T> struct In { T x; };
//     template <class T> struct Out { T y; };
//     struct Attrs {
//       double factor = 1;
//       void fields(auto&& f) const { f("factor", factor, "what x is multiplied by"); }
//     };
//   };
//   // core/ops/scale/scale.cpp
//   template <class Real> struct Reference {
//     static void forward(const Scale::In<TensorView>&, Scale::Out<TensorView>&,
//                         const Scale::Attrs&);
//     static void backward(const Scale::In<TensorView>& in, const Scale::Out<TensorView>& out,
//                          const Scale::Out<TensorView>& dout, Scale::In<TensorView>& din,
//                          const Scale::Attrs&);
//   };
//   LS_OP(Scale, "scale", "x times a factor")
//       .in("x[...]").out("y[...]").saves("").reference<Reference>().cost(2, 1);
//   // core/ops/scale/scale_cpu.cpp
//   template <class T> struct Kernel { ... the same two functions ... };
//   LS_KERNEL(Scale).reads("x y", lies::rows).kernel<Kernel, float, bf16>();
//
// arg_spec.h says how a contract is written. What the builder of an op adds stands in the order of
// its methods, each that is needed:
//   in out saves no_grad grad_acc same_gradient continues bind reference cost
// Members of In and Out are all of type T and stand in the order of the contract; T is Tensor for
// callers, TensorView for kernels, ShapeOf for bind and cost.
#include "core/op/declare.h"
#include "core/op/run.h"
