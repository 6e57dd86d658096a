#include "core/ops/sigmoid_gate/sigmoid_gate.h"

#include "core/ops/common/activation_reference.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = SigmoidGate;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs& a, Bindings&) {
  LS_CHECK(!in.low.defined() || a.lower_bound == 0, kConfig,
           "sigmoid_gate: a lower bound of {} beside those of channels; give one of them",
           a.lower_bound);
  LS_CHECK(a.lower_bound >= 0 && a.lower_bound < 1, kConfig,
           "sigmoid_gate: the lower bound is {}, expected from 0 to below 1", a.lower_bound);
}

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x);
    const common::Joined<Real, 2> g(out.g), k(out.k);
    for (Index r = 0; r < x.size(0); ++r) {
      for (Index c = 0; c < x.size(1); ++c) {
        const Real low = bound(in, a, c);
        k(r, c) = (1 - low) * act::reference_sigmoid(-x(r, c));
        // log f, from f itself or from 1 - f, whichever is small.
        const Real f = low + (1 - low) * act::reference_sigmoid(x(r, c));
        const Real by_k = std::log1p(-k(r, c)),
                   by_f = low > 0 ? std::log(f) : -act::reference_softplus(-x(r, c));
        g(r, c) = k(r, c) < Real(0.5) ? by_k : by_f;
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x), gg(dout.g), gk(dout.k);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 2> gx(d.x);
    const View<Real, 1> glow(d.low);
    for (Index r = 0; r < x.size(0); ++r) {
      for (Index c = 0; c < x.size(1); ++c) {
        const Real low = bound(in, a, c);
        const Real up = act::reference_sigmoid(x(r, c)), down = act::reference_sigmoid(-x(r, c));
        const Real f = low + (1 - low) * up, over_f = low > 0 ? up / f : Real(1);  // sigmoid / f
        const Real of_g = common::or_zero(gg, r, c), of_k = common::or_zero(gk, r, c);
        gx(r, c) = (1 - low) * down * (of_g * over_f - of_k * up);
        if (glow) {
          glow(c) += down * (of_g / f - of_k);
        }
      }
    }
  }
  static Real bound(const Op::In<TensorView>& in, const Op::Attrs& a, Index channel) {
    return in.low.defined() ? View<const Real, 1>(in.low)(channel) : Real(a.lower_bound);
  }
};

LS_OP(SigmoidGate, "sigmoid_gate", "forget gate f = low + (1 - low) sigmoid(x): log f and 1 - f")
    .in("x[...,D] low[D]:acc?")
    .out("g[...,D]:acc k[...,D]")
    .saves("x low")
    .bind(bind)
    .reference<Reference>()
    .cost(4, 30);

}  // namespace
}  // namespace ls::ops
