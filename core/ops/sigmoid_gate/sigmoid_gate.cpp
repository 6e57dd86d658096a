#include "core/ops/sigmoid_gate/sigmoid_gate.h"

#include "core/ops/common/activation_reference.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = SigmoidGate;

void bind(const Op::In<ShapeOf>&, const Op::Attrs& a, Bindings&) {
  LS_CHECK(a.lower_bound >= 0 && a.lower_bound < 1, kConfig,
           "sigmoid_gate: the lower bound is {}, expected from 0 to below 1", a.lower_bound);
}

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Real low = Real(a.lower_bound);
    const common::Joined<const Real, 1> x(in.x);
    const common::Joined<Real, 1> g(out.g), k(out.k);
    for (Index i = 0; i < x.size(0); ++i) {
      k(i) = (1 - low) * act::reference_sigmoid(-x(i));
      // log f, from f itself or from 1 - f, whichever is small.
      const Real f = low + (1 - low) * act::reference_sigmoid(x(i));
      const Real by_k = std::log1p(-k(i)),
                 by_f = low > 0 ? std::log(f) : -act::reference_softplus(-x(i));
      g(i) = k(i) < Real(0.5) ? by_k : by_f;
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Real low = Real(a.lower_bound);
    const common::Joined<const Real, 1> x(in.x), gg(dout.g), gk(dout.k);
    const common::Joined<Real, 1> gx(din.x);
    for (Index i = 0; i < x.size(0); ++i) {
      const Real up = act::reference_sigmoid(x(i)), down = act::reference_sigmoid(-x(i));
      const Real over_f = low > 0 ? up / (low + (1 - low) * up) : Real(1);  // sigmoid / f
      gx(i) = (1 - low) * down * (common::or_zero(gg, i) * over_f - common::or_zero(gk, i) * up);
    }
  }
};

LS_OP(SigmoidGate, "sigmoid_gate", "forget gate f = low + (1 - low) sigmoid(x): log f and 1 - f")
    .in("x[...]")
    .out("g[...]:acc k[...]")
    .saves("x")
    .bind(bind)
    .reference<Reference>()
    .cost(4, 30);

}  // namespace
}  // namespace ls::ops
