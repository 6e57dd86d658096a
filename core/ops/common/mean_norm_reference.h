#pragma once
// The definition behind layer_norm and group_norm, group by group, for references.
#include <cmath>
#include <vector>

#include "core/ops/common/activation_reference.h"
#include "core/tensor/tensor.h"

namespace ls::ops {

/// In, Out and Attrs of LayerNorm or GroupNorm.
template <class Real>
struct MeanNormReference {
  static Real silu(Real z) { return act::reference_value(Act::kSilu, z); }
  static Real silu_slope(Real z) { return act::reference_slope(Act::kSilu, z); }

  /// One group of channels of one row. u = x or x silu(z), n = (u - mean) rstd,
  /// v = n weight + bias, y = v or v silu(z).
  struct Group {
    std::vector<Real> x, z, n, weight, bias;
    Real mean = 0, rstd = 0;
  };
  template <class In, class Attrs>
  static Group group(const In& in, Index groups, Index which, const Attrs& a) {
    const Index d = in.x.size(-1), size = d / groups, first = which * size;
    Group g;
    std::vector<Real> u;
    for (Index i = first; i < first + size; ++i) {
      g.x.push_back(static_cast<Real>(in.x.slow_at(i)));
      g.z.push_back(in.z.defined() ? static_cast<Real>(in.z.slow_at(i)) : Real(0));
      g.weight.push_back(in.weight.defined() ? static_cast<Real>(in.weight.slow_at(i % d))
                                             : Real(1));
      g.bias.push_back(in.bias.defined() ? static_cast<Real>(in.bias.slow_at(i % d)) : Real(0));
      u.push_back(in.z.defined() && !a.norm_before_gate ? g.x.back() * silu(g.z.back())
                                                        : g.x.back());
      g.mean += u.back() / static_cast<Real>(size);
    }
    Real variance = 0;
    for (const Real e : u) {
      variance += (e - g.mean) * (e - g.mean) / static_cast<Real>(size);
    }
    g.rstd = 1 / std::sqrt(variance + static_cast<Real>(a.eps));
    for (const Real e : u) {
      g.n.push_back((e - g.mean) * g.rstd);
    }
    return g;
  }

  template <class In, class Out, class Attrs>
  static void forward(const In& in, Out& out, Index groups, const Attrs& a) {
    Real* y = out.y.template data<Real>();
    for (Index k = 0; k < out.mean.numel(); ++k) {
      const Group g = group(in, groups, k, a);
      out.mean.template data<Real>()[k] = g.mean;
      out.rstd.template data<Real>()[k] = g.rstd;
      for (std::size_t i = 0; i < g.n.size(); ++i) {
        const Real v = g.n[i] * g.weight[i] + g.bias[i];
        *y++ = in.z.defined() && a.norm_before_gate ? v * silu(g.z[i]) : v;
      }
    }
  }

  template <class In, class Out, class Attrs>
  static void backward(const In& in, const Out& dout, In& din, Index groups, const Attrs& a) {
    const bool before = in.z.defined() && !a.norm_before_gate;
    const bool after = in.z.defined() && a.norm_before_gate;
    for (Tensor* d : {&din.weight, &din.bias}) {
      if (d->defined()) {
        d->zero_();
      }
    }
    const Index d = in.x.size(-1), size = d / groups;
    for (Index k = 0; size > 0 && k < in.x.numel() / size; ++k) {
      const Group g = group(in, groups, k, a);
      const Real count = static_cast<Real>(size);
      std::vector<Real> dn;
      for (Index i = 0; i < size; ++i) {
        const auto e = static_cast<std::size_t>(i);
        const Index at = k * size + i;
        const Real dy = dout.y.defined() ? static_cast<Real>(dout.y.slow_at(at)) : Real(0);
        const Real dv = after ? dy * silu(g.z[e]) : dy;
        if (after && din.z.defined()) {
          din.z.template data<Real>()[at] =
              dy * (g.n[e] * g.weight[e] + g.bias[e]) * silu_slope(g.z[e]);
        }
        if (din.weight.defined()) {
          din.weight.template data<Real>()[at % d] += dv * g.n[e];
        }
        if (din.bias.defined()) {
          din.bias.template data<Real>()[at % d] += dv;
        }
        dn.push_back(dv * g.weight[e]);
      }
      const Real dmean = dout.mean.defined() ? static_cast<Real>(dout.mean.slow_at(k)) : Real(0);
      const Real drstd = dout.rstd.defined() ? static_cast<Real>(dout.rstd.slow_at(k)) : Real(0);
      // dn_j/du_i = rstd ([i = j] - (1 + n_i n_j) / count), dmean/du_i = 1 / count,
      // drstd/du_i = -rstd^2 n_i / count.
      for (Index i = 0; i < size; ++i) {
        const auto e = static_cast<std::size_t>(i);
        const Index at = k * size + i;
        Real du = (dmean - drstd * g.rstd * g.rstd * g.n[e]) / count;
        for (std::size_t j = 0; j < dn.size(); ++j) {
          du += dn[j] * g.rstd * (Real(e == j) - (1 + g.n[e] * g.n[j]) / count);
        }
        if (before && din.z.defined()) {
          din.z.template data<Real>()[at] = du * g.x[e] * silu_slope(g.z[e]);
        }
        if (din.x.defined()) {
          din.x.template data<Real>()[at] = before ? du * silu(g.z[e]) : du;
        }
      }
    }
  }
};

}  // namespace ls::ops
