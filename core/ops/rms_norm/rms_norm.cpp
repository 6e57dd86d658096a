#include "core/ops/rms_norm/rms_norm.h"

#include <cmath>
#include <vector>

#include "core/ops/common/activations.h"

namespace ls::ops {
namespace {

void bind(const RmsNorm::In<Tensor>& in, const RmsNorm::Attrs& a, Bindings& b) {
  const Index d = in.x.size(-1), g = a.group_size > 0 ? a.group_size : d;
  LS_CHECK(g > 0 && d % g == 0, kShape,
           "rms_norm: argument x: groups of {} channels do not divide {}", g, d);
  b.set("G", d / g);
}

template <class Real>
struct Reference {
  /// One group of one row.
  struct Group {
    const Real *x, *z, *weight;  // z, weight: null when absent
    Index channels;
    const RmsNorm::Attrs& a;
    bool before() const { return z && !a.norm_before_gate; }
    Real gate(Index c) const { return a.gate_sigmoid ? act::Sigmoid::f(z[c]) : act::Silu::f(z[c]); }
    Real gate_slope(Index c) const {
      return a.gate_sigmoid ? act::Sigmoid::d(z[c]) : act::Silu::d(z[c]);
    }
    Real gain(Index c) const {
      return weight ? static_cast<Real>(a.weight_offset) + weight[c] : Real(1);
    }
    /// What is normalised.
    Real input(Index c) const { return before() ? x[c] * gate(c) : x[c]; }
    Real rstd() const {
      Real sum = 0;
      for (Index c = 0; c < channels; ++c) {
        sum += input(c) * input(c);
      }
      return 1 / std::sqrt(sum / static_cast<Real>(channels) + static_cast<Real>(a.eps));
    }
    Real output(Index c, Real rstd) const {
      return input(c) * rstd * gain(c) * (z && !before() ? gate(c) : Real(1));
    }
  };
  /// f(group, first element in x, row, first channel)
  template <class F>
  static void each_group(const RmsNorm::In<Tensor>& in, const RmsNorm::Attrs& a, F&& f) {
    const Tensor x = in.x.contiguous();
    const Tensor z = in.z.defined() ? in.z.contiguous() : Tensor();
    const Tensor weight = in.weight.defined() ? in.weight.contiguous() : Tensor();
    const Index d = x.size(-1), channels = a.group_size > 0 ? a.group_size : d;
    for (Index at = 0; at < x.numel(); at += channels) {
      const Index c0 = at % d;
      f(Group{x.data<Real>() + at, z.defined() ? z.data<Real>() + at : nullptr,
              weight.defined() ? weight.data<Real>() + c0 : nullptr, channels, a},
        at, c0);
    }
  }
  static void forward(const RmsNorm::In<Tensor>& in, RmsNorm::Out<Tensor>& out,
                      const RmsNorm::Attrs& a) {
    Real* y = out.y.data<Real>();
    Real* rstd = out.rstd.data<Real>();
    each_group(in, a, [&](const Group& g, Index at, Index) {
      const Real k = g.rstd();
      rstd[at / g.channels] = k;
      for (Index c = 0; c < g.channels; ++c) {
        y[at + c] = g.output(c, k);
      }
    });
  }
  static void backward(const RmsNorm::In<Tensor>& in, const RmsNorm::Out<Tensor>&,
                       const RmsNorm::Out<Tensor>& dout, RmsNorm::In<Tensor>& din,
                       const RmsNorm::Attrs& a) {
    const Tensor dy = dout.y.contiguous();
    if (din.weight.defined()) {
      din.weight.zero_();
    }
    each_group(in, a, [&](const Group& g, Index at, Index c0) {
      const Real* d = dy.data<Real>() + at;
      const Real k = g.rstd(), n = static_cast<Real>(g.channels);
      const bool after = g.z && !g.before();
      // y = u rstd gain [gate] with u the input: du = rstd (e - u rstd^2 mean(e u)), where
      // e = dy gain [gate].
      const auto e = [&](Index c) { return d[c] * g.gain(c) * (after ? g.gate(c) : Real(1)); };
      Real mean = 0;
      for (Index c = 0; c < g.channels; ++c) {
        mean += e(c) * g.input(c) / n;
      }
      for (Index c = 0; c < g.channels; ++c) {
        const Real u = g.input(c), du = k * (e(c) - u * k * k * mean);
        if (din.x.defined()) {
          din.x.data<Real>()[at + c] = g.before() ? du * g.gate(c) : du;
        }
        if (din.z.defined()) {
          din.z.data<Real>()[at + c] = g.before() ? du * g.x[c] * g.gate_slope(c)
                                                  : d[c] * u * k * g.gain(c) * g.gate_slope(c);
        }
        if (din.weight.defined()) {
          din.weight.data<Real>()[c0 + c] += d[c] * u * k * (after ? g.gate(c) : Real(1));
        }
      }
    });
  }
};

Cost cost(const RmsNorm::In<Tensor>& in, const RmsNorm::Attrs&) {
  return {.bytes = (in.z.defined() ? 3.0 : 2.0) * in.x.bytes(),
          .flops = (in.z.defined() ? 12.0 : 4.0) * in.x.numel()};
}

LS_OP(RmsNorm, "rms_norm", "root-mean-square norm, by groups, gated")
    .in("x[...,D] weight[D]:acc? z[...,D]?")
    .out("y[...,D] rstd[...,G]:acc")
    .saves("x weight z rstd")
    .no_grad("rstd")
    .strided_grad("x z")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
