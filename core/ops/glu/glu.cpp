#include "core/ops/glu/glu.h"

#include "core/op/remade.h"
#include "core/ops/common/activations.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = Glu;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs&, Bindings& b) {
  LS_CHECK(in.x.defined() != (in.gate.defined() && in.up.defined()), kShape,
           "glu: give either x with both halves, or gate and up");
  if (in.x.defined()) {
    LS_CHECK(in.x.size(-1) % 2 == 0, kShape, "glu: x has {} channels, an even number was expected",
             in.x.size(-1));
    b.set("F", in.x.size(-1) / 2);
  }
}

/// Gate and up of a row: channels c and `shift` + c of one tensor, or channels c of two.
template <class T>
struct Halves {
  template <class In>
  explicit Halves(In& in)
      : gate(in.x.defined() ? in.x : in.gate),
        up(in.x.defined() ? in.x : in.up),
        shift(in.x.defined() ? gate.size(1) / 2 : 0) {}
  common::Joined<T, 2> gate, up;
  Index shift;
};

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Halves<const Real> x(in);
    const common::Joined<Real, 2> y(out.y);
    act::dispatch(a.activation, [&]<class F>() {
      for (Index r = 0; r < y.size(0); ++r) {
        for (Index c = 0; c < y.size(1); ++c) {
          y(r, c) = F::f(x.gate(r, c)) * x.up(r, x.shift + c);
        }
      }
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Halves<const Real> x(in);
    const common::Joined<const Real, 2> gy(dout.y);
    auto d = common::zero_gradients(in, din);
    const Halves<Real> gx(d);
    act::dispatch(a.activation, [&]<class F>() {
      for (Index r = 0; r < gy.size(0); ++r) {
        for (Index c = 0; c < gy.size(1); ++c) {
          const Real gate = x.gate(r, c), up = x.up(r, x.shift + c);
          gx.gate(r, c) = gy(r, c) * up * F::d(gate);
          gx.up(r, x.shift + c) = gy(r, c) * F::f(gate);
        }
      }
    });
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs&) {
  const double n = in.x.defined() ? in.x.numel() : 2.0 * in.gate.numel();
  return {.bytes = 1.5 * n * dtype_size((in.x.defined() ? in.x : in.gate).dtype()), .flops = 5 * n};
}

LS_OP(Glu, "glu", "gated linear unit: act(gate) * up")
    .in("x[...,2*F]? gate[...,F]? up[...,F]?")
    .out("y[...,F]")
    .saves("x gate up")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);
LS_REMADE(Glu, "y");

}  // namespace
}  // namespace ls::ops
