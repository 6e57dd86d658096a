#include "core/ops/mamba_gate/mamba_gate.h"

#include <cmath>

#include "core/ops/common/activation_reference.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = MambaGate;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs& a, Bindings&) {
  LS_CHECK(a.lower_bound <= 0, kConfig, "mamba_gate: lower_bound = {}, a log-decay is at most 0",
           a.lower_bound);
  const Index channels = in.x.size(-1), heads = in.a_log.size(0);
  LS_CHECK(heads > 0 && channels % heads == 0, kShape,
           "mamba_gate: {} channels of x are not a multiple of the {} heads of a_log", channels,
           heads);
}

/// g of one element and its derivatives by z = x + dt_bias and by a_log.
template <class Real>
struct Gate {
  Gate(Real z, Real a_log, double lower_bound) {
    const Real rate = std::exp(a_log);
    if (lower_bound < 0) {
      const Real low(lower_bound), s = act::reference_sigmoid(rate * z);
      g = low * s;
      by_z = low * s * act::reference_sigmoid(-rate * z) * rate;
      by_a_log = by_z * z;
    } else {
      g = by_a_log = -rate * act::reference_softplus(z);
      by_z = -rate * act::reference_sigmoid(z);
    }
  }
  Real g, by_z, by_a_log;
};

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x);
    const View<const Real, 1> a_log(in.a_log), bias(in.dt_bias);
    const common::Joined<Real, 2> g(out.g);
    const Index of_head = x.size(1) / a_log.size(0);
    for (Index r = 0; r < x.size(0); ++r) {
      for (Index i = 0; i < x.size(1); ++i) {
        const Real z = x(r, i) + common::or_zero(bias, i);
        g(r, i) = Gate<Real>(z, a_log(i / of_head), a.lower_bound).g;
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x), gg(dout.g);
    const View<const Real, 1> a_log(in.a_log), bias(in.dt_bias);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 2> gx(d.x);
    const View<Real, 1> ga_log(d.a_log), gbias(d.dt_bias);
    const Index of_head = x.size(1) / a_log.size(0);
    for (Index r = 0; r < x.size(0); ++r) {
      for (Index i = 0; i < x.size(1); ++i) {
        const Index h = i / of_head;
        const Gate<Real> gate(x(r, i) + common::or_zero(bias, i), a_log(h), a.lower_bound);
        gx(r, i) = gg(r, i) * gate.by_z;
        ga_log(h) += gg(r, i) * gate.by_a_log;
        if (gbias) {
          gbias(i) += gx(r, i);
        }
      }
    }
  }
};

LS_OP(MambaGate, "mamba_gate",
      "log-decay by head or channel: -exp(a_log) softplus(x + dt_bias), or bounded from below")
    .in("x[...,X] a_log[H]:acc dt_bias[X]:acc?")
    .out("g[...,X]:acc")
    .saves("x a_log dt_bias")
    .bind(bind)
    .reference<Reference>()
    .cost(2, 12);

}  // namespace
}  // namespace ls::ops
