#pragma once
// The definition behind layer_norm and group_norm, group by group, for references.
#include <cmath>

#include "core/ops/common/activation_reference.h"
#include "core/ops/common/reference.h"

namespace ls::ops {

/// Op is LayerNorm or GroupNorm.
template <class Op, class Real>
struct MeanNormReference {
  using In = typename Op::template In<TensorView>;
  using Shapes = typename Op::template In<ShapeOf>;
  using Out = typename Op::template Out<TensorView>;
  using Attrs = typename Op::Attrs;
  using Rows = common::Joined<const Real, 2>;

  /// u = x or x silu(z), n = (u - mean) rstd by groups of channels, v = n weight + bias,
  /// y = v or v silu(z).
  struct Call {
    Call(const In& in, const Attrs& a)
        : x(in.x),
          z(in.z),
          weight(in.weight),
          bias(in.bias),
          before(z && !a.norm_before_gate),
          after(z && a.norm_before_gate),
          groups(a.num_groups),
          size(x.size(1) / groups),
          eps(Real(a.eps)) {}
    Real silu(Index r, Index c) const { return act::reference_value(Act::kSilu, z(r, c)); }
    Real silu_slope(Index r, Index c) const { return act::reference_slope(Act::kSilu, z(r, c)); }
    Real input(Index r, Index c) const { return before ? x(r, c) * silu(r, c) : x(r, c); }
    Real gain(Index c) const { return weight ? weight(c) : Real(1); }
    Rows x, z;
    View<const Real, 1> weight, bias;
    bool before, after;
    Index groups, size;
    Real eps;
  };
  /// Group k of row r.
  struct Group {
    Group(const Call& call, Index r, Index k) : first(k * call.size), n(call.size) {
      for (Index i = 0; i < n.size(); ++i) {
        n(i) = call.input(r, first + i);
        mean += n(i) / Real(n.size());
      }
      Real variance = 0;
      for (const Real u : n) {
        variance += (u - mean) * (u - mean) / Real(n.size());
      }
      rstd = 1 / std::sqrt(variance + call.eps);
      for (Real& u : n) {
        u = (u - mean) * rstd;
      }
    }
    Index first;  ///< channel
    Buffer<Real> n;
    Real mean = 0, rstd = 0;
  };

  static void forward(const In& in, Out& out, const Attrs& a) {
    const Call call(in, a);
    const common::Joined<Real, 2> y(out.y);
    const common::Joined<Real, 1> mean(out.mean), rstd(out.rstd);
    for (Index r = 0; r < y.size(0); ++r) {
      for (Index k = 0; k < call.groups; ++k) {
        const Group g(call, r, k);
        mean(r * call.groups + k) = g.mean;
        rstd(r * call.groups + k) = g.rstd;
        for (Index i = 0; i < call.size; ++i) {
          const Index c = g.first + i;
          const Real v = g.n(i) * call.gain(c) + common::or_zero(call.bias, c);
          y(r, c) = call.after ? v * call.silu(r, c) : v;
        }
      }
    }
  }

  /// dn_j/du_i = rstd ([i = j] - (1 + n_i n_j) / count), dmean/du_i = 1 / count,
  /// drstd/du_i = -rstd^2 n_i / count.
  static void backward(const In& in, const Out&, const Out& dout, In& din, const Attrs& a) {
    const Call call(in, a);
    const Rows gy(dout.y);
    const common::Joined<const Real, 1> gmean(dout.mean), grstd(dout.rstd);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 2> gx(d.x), gz(d.z);
    const View<Real, 1> gweight(d.weight), gbias(d.bias);
    for (Index r = 0; r < call.x.size(0); ++r) {
      for (Index k = 0; k < call.groups; ++k) {
        const Group g(call, r, k);
        Buffer<Real> dn(call.size);
        for (Index i = 0; i < call.size; ++i) {
          const Index c = g.first + i;
          const Real dy = common::or_zero(gy, r, c);
          const Real dv = call.after ? dy * call.silu(r, c) : dy;
          if (call.after) {
            const Real v = g.n(i) * call.gain(c) + common::or_zero(call.bias, c);
            gz(r, c) = dy * v * call.silu_slope(r, c);
          }
          if (gweight) {
            gweight(c) += dv * g.n(i);
          }
          if (gbias) {
            gbias(c) += dv;
          }
          dn(i) = dv * call.gain(c);
        }
        const Real count = Real(call.size);
        const Real dmean = common::or_zero(gmean, r * call.groups + k);
        const Real drstd = common::or_zero(grstd, r * call.groups + k);
        for (Index i = 0; i < call.size; ++i) {
          const Index c = g.first + i;
          Real du = (dmean - drstd * g.rstd * g.rstd * g.n(i)) / count;
          for (Index j = 0; j < call.size; ++j) {
            du += dn(j) * g.rstd * (Real(i == j) - (1 + g.n(i) * g.n(j)) / count);
          }
          gx(r, c) = call.before ? du * call.silu(r, c) : du;
          if (call.before) {
            gz(r, c) = du * call.x(r, c) * call.silu_slope(r, c);
          }
        }
      }
    }
  }

  static Cost cost(const Shapes& in, const Attrs&) {
    const bool gated = in.z.defined();
    return {.bytes = (gated ? 3.0 : 2.0) * in.x.bytes(),
            .flops = (gated ? 16.0 : 8.0) * in.x.numel()};
  }
};

}  // namespace ls::ops
