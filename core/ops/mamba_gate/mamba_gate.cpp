#include "core/ops/mamba_gate/mamba_gate.h"

#include <cmath>

#include "core/ops/common/activation_reference.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = MambaGate;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs&, Bindings&) {
  const Index channels = in.x.size(-1), heads = in.a_log.size(0);
  LS_CHECK(heads > 0 && channels % heads == 0, kShape,
           "mamba_gate: {} channels of x are not a multiple of the {} heads of a_log", channels,
           heads);
}

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const common::Joined<const Real, 2> x(in.x);
    const View<const Real, 1> a_log(in.a_log), bias(in.dt_bias);
    const common::Joined<Real, 2> g(out.g);
    const Index of_head = x.size(1) / a_log.size(0);
    for (Index r = 0; r < x.size(0); ++r) {
      for (Index i = 0; i < x.size(1); ++i) {
        const Real biased = x(r, i) + common::or_zero(bias, i);
        g(r, i) = -std::exp(a_log(i / of_head)) * act::reference_softplus(biased);
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const common::Joined<const Real, 2> x(in.x), gg(dout.g);
    const View<const Real, 1> a_log(in.a_log), bias(in.dt_bias);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 2> gx(d.x);
    const View<Real, 1> ga_log(d.a_log), gbias(d.dt_bias);
    const Index of_head = x.size(1) / a_log.size(0);
    for (Index r = 0; r < x.size(0); ++r) {
      for (Index i = 0; i < x.size(1); ++i) {
        const Index h = i / of_head;
        const Real biased = x(r, i) + common::or_zero(bias, i), rate = std::exp(a_log(h));
        gx(r, i) = -gg(r, i) * rate * act::reference_sigmoid(biased);
        ga_log(h) -= gg(r, i) * rate * act::reference_softplus(biased);
        if (gbias) {
          gbias(i) += gx(r, i);
        }
      }
    }
  }
};

LS_OP(MambaGate, "mamba_gate", "log-decay by head or channel: -exp(a_log) softplus(x + dt_bias)")
    .in("x[...,X] a_log[H]:acc dt_bias[X]:acc?")
    .out("g[...,X]:acc")
    .saves("x a_log dt_bias")
    .bind(bind)
    .reference<Reference>()
    .cost(2, 12);

}  // namespace
}  // namespace ls::ops
