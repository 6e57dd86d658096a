#include "core/ops/glu_linear/glu_linear.h"

#include "core/ops/common/activations.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = GluLinear;

/// The first half of a row of x is the gate.
template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x), w(in.weight);
    const common::Joined<Real, 2> y(out.y);
    const Index f = w.size(1);
    act::dispatch(a.activation, [&]<class F>() {
      for (Index r = 0; r < y.size(0); ++r) {
        for (Index o = 0; o < w.size(0); ++o) {
          Real sum = 0;
          for (Index c = 0; c < f; ++c) {
            sum += F::f(x(r, c)) * x(r, f + c) * w(o, c);
          }
          y(r, o) = sum;
        }
      }
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x), w(in.weight), gy(dout.y);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 2> gx(d.x), gw(d.weight);
    const Index f = w.size(1);
    act::dispatch(a.activation, [&]<class F>() {
      for (Index r = 0; r < gy.size(0); ++r) {
        for (Index o = 0; o < w.size(0); ++o) {
          for (Index c = 0; c < f; ++c) {
            const Real gate = x(r, c), up = x(r, f + c), dh = gy(r, o) * w(o, c);
            gw(o, c) += gy(r, o) * F::f(gate) * up;
            gx(r, c) += dh * up * F::d(gate);
            gx(r, f + c) += dh * F::f(gate);
          }
        }
      }
    });
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs&) {
  const double hidden = 0.5 * in.x.numel();
  const double out = hidden / std::max<Index>(1, in.weight.size(1)) * in.weight.size(0);
  return {.bytes = (2 * hidden + in.weight.numel() + out) * dtype_size(in.x.dtype()),
          .flops = 2 * hidden * in.weight.size(0) + 5 * hidden};
}

LS_OP(GluLinear, "glu_linear",
      "gated linear unit and the projection behind it: (act(gate) * up) W^T")
    .in("x[...,2*F] weight[D,F]")
    .out("y[...,D]")
    .saves("x weight")
    .grad_acc("weight")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
