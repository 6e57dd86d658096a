#include "core/ops/rms_norm/rms_norm.h"

#include <cmath>

#include "core/op/remade.h"
#include "core/ops/common/activations.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = RmsNorm;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs& a, Bindings& b) {
  const Index d = in.x.size(-1), g = a.group_size > 0 ? a.group_size : d;
  LS_CHECK(g > 0 && d % g == 0, kShape,
           "rms_norm: argument x: groups of {} channels do not divide {}", g, d);
  b.set("G", d / g);
}

template <class Real>
struct Reference {
  /// u = x or x act(z) is normalised in groups of `channels`; the gate may stand behind instead.
  struct Call {
    Call(const Op::In<TensorView>& in, const Op::Attrs& attrs)
        : a(attrs),
          x(in.x),
          z(in.z),
          weight(in.weight),
          before(z && !a.norm_before_gate),
          after(z && a.norm_before_gate),
          channels(a.group_size > 0 ? a.group_size : x.size(1)) {}
    Real gate(Index r, Index c) const {
      return a.gate_sigmoid ? act::Sigmoid::f(z(r, c)) : act::Silu::f(z(r, c));
    }
    Real gate_slope(Index r, Index c) const {
      return a.gate_sigmoid ? act::Sigmoid::d(z(r, c)) : act::Silu::d(z(r, c));
    }
    Real gate_behind(Index r, Index c) const { return after ? gate(r, c) : Real(1); }
    Real gain(Index c) const { return weight ? Real(a.weight_offset) + weight(c) : Real(1); }
    Real input(Index r, Index c) const { return before ? x(r, c) * gate(r, c) : x(r, c); }
    /// Of group g of row r.
    Real rstd(Index r, Index g) const {
      Real sum = 0;
      for (Index c = g * channels; c < (g + 1) * channels; ++c) {
        sum += input(r, c) * input(r, c);
      }
      return 1 / std::sqrt(sum / Real(channels) + Real(a.eps));
    }
    Index groups() const { return channels > 0 ? x.size(1) / channels : 0; }
    const Op::Attrs& a;
    common::Joined<const Real, 2> x, z;
    View<const Real, 1> weight;
    bool before, after;
    Index channels;
  };

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call call(in, a);
    const common::Joined<Real, 2> y(out.y), rstd(out.rstd);
    for (Index r = 0; r < y.size(0); ++r) {
      for (Index g = 0; g < call.groups(); ++g) {
        rstd(r, g) = call.rstd(r, g);
        for (Index c = g * call.channels; c < (g + 1) * call.channels; ++c) {
          y(r, c) = call.input(r, c) * rstd(r, g) * call.gain(c) * call.gate_behind(r, c);
        }
      }
    }
  }
  /// y = u rstd gain [gate]: du = rstd (e - u rstd^2 mean(e u)), where e = dy gain [gate].
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call call(in, a);
    const common::Joined<const Real, 2> gy(dout.y);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 2> gx(d.x), gz(d.z);
    const View<Real, 1> gweight(d.weight);
    const auto e = [&](Index r, Index c) {
      return gy(r, c) * call.gain(c) * call.gate_behind(r, c);
    };
    for (Index r = 0; r < gy.size(0); ++r) {
      for (Index g = 0; g < call.groups(); ++g) {
        const Index first = g * call.channels, end = first + call.channels;
        const Real k = call.rstd(r, g);
        Real mean = 0;
        for (Index c = first; c < end; ++c) {
          mean += e(r, c) * call.input(r, c) / Real(call.channels);
        }
        for (Index c = first; c < end; ++c) {
          const Real u = call.input(r, c), du = k * (e(r, c) - u * k * k * mean);
          gx(r, c) = call.before ? du * call.gate(r, c) : du;
          if (call.before) {
            gz(r, c) = du * call.x(r, c) * call.gate_slope(r, c);
          } else if (call.after) {
            gz(r, c) = gy(r, c) * u * k * call.gain(c) * call.gate_slope(r, c);
          }
          if (gweight) {
            gweight(c) += gy(r, c) * u * k * call.gate_behind(r, c);
          }
        }
      }
    }
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs&) {
  return {.bytes = (in.z.defined() ? 3.0 : 2.0) * in.x.bytes(),
          .flops = (in.z.defined() ? 12.0 : 4.0) * in.x.numel()};
}

LS_OP(RmsNorm, "rms_norm", "root-mean-square norm, by groups, gated")
    .in("x[...,D] weight[D]:acc? z[...,D]?")
    .out("y[...,D] rstd[...,G]:acc")
    .saves("x weight z rstd")
    .no_grad("rstd")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);
LS_REMADE(RmsNorm, "y");

}  // namespace
}  // namespace ls::ops
