#include "core/ops/mamba_gate/mamba_gate.h"

#include <cmath>

#include "core/ops/common/activation_reference.h"

namespace ls::ops {
namespace {

template <class Real>
struct Reference {
  /// x + dt_bias at element i.
  static Real biased(const MambaGate::In<Tensor>& in, Index i) {
    const Real bias = in.dt_bias.defined()
                          ? static_cast<Real>(in.dt_bias.slow_at(i % in.dt_bias.numel()))
                          : Real(0);
    return static_cast<Real>(in.x.slow_at(i)) + bias;
  }
  static Real rate(const MambaGate::In<Tensor>& in, Index i) {
    return std::exp(static_cast<Real>(in.a_log.slow_at(i % in.a_log.numel())));
  }
  static void forward(const MambaGate::In<Tensor>& in, MambaGate::Out<Tensor>& out,
                      const MambaGate::Attrs&) {
    for (Index i = 0; i < in.x.numel(); ++i) {
      out.g.data<Real>()[i] = -rate(in, i) * act::reference_softplus(biased(in, i));
    }
  }
  static void backward(const MambaGate::In<Tensor>& in, const MambaGate::Out<Tensor>&,
                       const MambaGate::Out<Tensor>& dout, MambaGate::In<Tensor>& din,
                       const MambaGate::Attrs&) {
    for (Tensor* d : {&din.a_log, &din.dt_bias}) {
      if (d->defined()) {
        d->zero_();
      }
    }
    for (Index i = 0; i < in.x.numel(); ++i) {
      const Index head = i % in.a_log.numel();
      const Real dg = static_cast<Real>(dout.g.slow_at(i)), x = biased(in, i);
      const Real dx = -dg * rate(in, i) * act::reference_sigmoid(x);
      if (din.x.defined()) {
        din.x.data<Real>()[i] = dx;
      }
      if (din.dt_bias.defined()) {
        din.dt_bias.data<Real>()[head] += dx;
      }
      if (din.a_log.defined()) {
        din.a_log.data<Real>()[head] -= dg * rate(in, i) * act::reference_softplus(x);
      }
    }
  }
};

Cost cost(const MambaGate::In<Tensor>& in, const MambaGate::Attrs&) {
  return {.bytes = 2.0 * in.x.bytes(), .flops = 12.0 * in.x.numel()};
}

LS_OP(MambaGate, "mamba_gate", "log-decay per head: -exp(a_log) softplus(x + dt_bias)")
    .in("x[...,H] a_log[H]:acc dt_bias[H]:acc?")
    .out("g[...,H]:acc")
    .saves("x a_log dt_bias")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
