// m = max(g + a, b) and the factors exp(g + a - m), exp(b - m), element by element. A thread owns
// elements.
#include <cmath>

#include "core/base/parallel_for.h"
#include "core/op/declare.h"
#include "core/ops/common/elements.h"
#include "core/ops/running_max/running_max.h"

namespace ls::ops {
namespace {

using Op = RunningMax;

constexpr Index kGrain = 4096;  // elements

template <class T>
struct Kernel {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const T* const g = in.g.data<T>();
    const T* const a = in.a.data<T>();
    const T* const b = in.b.data<T>();
    T* const m = out.m.data<T>();
    T* const earlier = out.earlier.data<T>();
    T* const later = out.later.data<T>();
    parallel_for(in.g.numel(), kGrain, [&](Index from, Index to) {
      for (Index i = from; i < to; ++i) {
        m[i] = std::max(g[i] + a[i], b[i]);
        earlier[i] = std::exp(g[i] + (a[i] - m[i]));
        later[i] = std::exp(b[i] - m[i]);
      }
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const T* const g = in.g.data<T>();
    const T* const a = in.a.data<T>();
    const T* const b = in.b.data<T>();
    const T* const dm = common::elements<T>(dout.m);
    const T* const dearlier = common::elements<T>(dout.earlier);
    const T* const dlater = common::elements<T>(dout.later);
    T* const to_g = common::elements<T>(din.g);
    T* const to_a = common::elements<T>(din.a);
    T* const to_b = common::elements<T>(din.b);
    const auto at = [](const T* x, Index i) { return x ? x[i] : T(0); };
    parallel_for(in.g.numel(), kGrain, [&](Index from, Index to) {
      for (Index i = from; i < to; ++i) {
        const bool first = g[i] + a[i] > b[i];
        const T factor = first ? out.later.data<T>()[i] * at(dlater, i)
                               : out.earlier.data<T>()[i] * at(dearlier, i);
        const T rest = at(dm, i) - factor;
        const T of_first = first ? rest : factor, of_second = first ? factor : rest;
        for (T* const x : {to_g, to_a}) {
          if (x) {
            x[i] = of_first;
          }
        }
        if (to_b) {
          to_b[i] = of_second;
        }
      }
    });
  }
};

LS_KERNEL(RunningMax).kernel<Kernel, double, float>();

}  // namespace
}  // namespace ls::ops
