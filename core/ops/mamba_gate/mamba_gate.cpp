#include "core/ops/mamba_gate/mamba_gate.h"

#include <cmath>

#include "core/ops/common/activation_reference.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = MambaGate;

template <class Real>
struct Reference {
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs&) {
    const common::Joined<const Real, 2> x(in.x);
    const View<const Real, 1> a_log(in.a_log), bias(in.dt_bias);
    const common::Joined<Real, 2> g(out.g);
    for (Index r = 0; r < x.size(0); ++r) {
      for (Index h = 0; h < x.size(1); ++h) {
        const Real biased = x(r, h) + common::or_zero(bias, h);
        g(r, h) = -std::exp(a_log(h)) * act::reference_softplus(biased);
      }
    }
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs&) {
    const common::Joined<const Real, 2> x(in.x), gg(dout.g);
    const View<const Real, 1> a_log(in.a_log), bias(in.dt_bias);
    Op::In<Tensor> d = common::zero_gradients(in, din);
    const common::Joined<Real, 2> gx(d.x);
    const View<Real, 1> ga_log(d.a_log), gbias(d.dt_bias);
    for (Index r = 0; r < x.size(0); ++r) {
      for (Index h = 0; h < x.size(1); ++h) {
        const Real biased = x(r, h) + common::or_zero(bias, h), rate = std::exp(a_log(h));
        gx(r, h) = -gg(r, h) * rate * act::reference_sigmoid(biased);
        ga_log(h) -= gg(r, h) * rate * act::reference_softplus(biased);
        if (gbias) {
          gbias(h) += gx(r, h);
        }
      }
    }
  }
};

LS_OP(MambaGate, "mamba_gate", "log-decay per head: -exp(a_log) softplus(x + dt_bias)")
    .in("x[...,H] a_log[H]:acc dt_bias[H]:acc?")
    .out("g[...,H]:acc")
    .saves("x a_log dt_bias")
    .reference<Reference>()
    .cost(2, 12);

}  // namespace
}  // namespace ls::ops
