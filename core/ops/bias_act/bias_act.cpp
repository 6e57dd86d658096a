#include "core/ops/bias_act/bias_act.h"

#include "core/op/remade.h"
#include "core/ops/common/activation_reference.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = BiasAct;

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x);
    const View<const Real, 1> bias(in.bias);
    const common::Joined<Real, 2> y(out.y);
    for (Index r = 0; r < x.size(0); ++r) {
      for (Index c = 0; c < x.size(1); ++c) {
        y(r, c) = act::reference_value(a.activation, x(r, c) + common::or_zero(bias, c));
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x), gy(dout.y);
    const View<const Real, 1> bias(in.bias);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 2> gx(d.x);
    const View<Real, 1> gbias(d.bias);
    for (Index r = 0; r < x.size(0); ++r) {
      for (Index c = 0; c < x.size(1); ++c) {
        const Real biased = x(r, c) + common::or_zero(bias, c);
        gx(r, c) = gy(r, c) * act::reference_slope(a.activation, biased);
        if (gbias) {
          gbias(c) += gx(r, c);
        }
      }
    }
  }
};

LS_OP(BiasAct, "bias_act", "act(x + bias)")
    .in("x[...,D] bias[D]:acc?")
    .out("y[...,D]")
    .saves("x bias")
    .reference<Reference>()
    .cost(2, 9);
LS_REMADE(BiasAct, "y");

}  // namespace
}  // namespace ls::ops
