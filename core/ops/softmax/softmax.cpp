#include "core/ops/softmax/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace ls::ops {
namespace {

template <class Real>
struct Reference {
  /// softmax(scale * x) of one row.
  static std::vector<Real> probabilities(const Real* x, Index d, Real scale, Real& top, Real& sum) {
    top = -std::numeric_limits<Real>::infinity();
    for (Index c = 0; c < d; ++c) {
      top = std::max(top, scale * x[c]);
    }
    sum = 0;
    for (Index c = 0; c < d; ++c) {
      sum += std::exp(scale * x[c] - top);
    }
    std::vector<Real> p;
    for (Index c = 0; c < d; ++c) {
      p.push_back(std::exp(scale * x[c] - top) / sum);
    }
    return p;
  }
  static void forward(const Softmax::In<Tensor>& in, Softmax::Out<Tensor>& out,
                      const Softmax::Attrs& a) {
    const std::vector<Real> x = in.x.to_vector<Real>();
    const Index d = in.x.size(-1);
    const Real scale = static_cast<Real>(a.scale);
    Real* y = out.y.data<Real>();
    for (Index r = 0; r < out.lse.numel(); ++r) {
      Real top, sum;
      const std::vector<Real> p = probabilities(x.data() + r * d, d, scale, top, sum);
      for (Index c = 0; c < d; ++c) {
        const auto i = static_cast<std::size_t>(r * d + c);
        y[i] = a.log ? scale * x[i] - top - std::log(sum) : p[static_cast<std::size_t>(c)];
      }
      out.lse.data<Real>()[r] = top + std::log(sum);
    }
  }
  // With z = scale * x: dy_i/dz_j is p_i ([i = j] - p_j), or [i = j] - p_j of the logarithm, and
  // dlse/dz_j is p_j.
  static void backward(const Softmax::In<Tensor>& in, const Softmax::Out<Tensor>&,
                       const Softmax::Out<Tensor>& dout, Softmax::In<Tensor>& din,
                       const Softmax::Attrs& a) {
    const std::vector<Real> x = in.x.to_vector<Real>();
    const Tensor dy = dout.y.defined() ? dout.y.contiguous() : Tensor();
    const Tensor dlse = dout.lse.defined() ? dout.lse.contiguous() : Tensor();
    const Index d = in.x.size(-1);
    const Real scale = static_cast<Real>(a.scale);
    Real* dx = din.x.data<Real>();
    for (Index r = 0; d > 0 && r < in.x.numel() / d; ++r) {
      Real top, sum;
      const std::vector<Real> p = probabilities(x.data() + r * d, d, scale, top, sum);
      for (Index j = 0; j < d; ++j) {
        const Real pj = p[static_cast<std::size_t>(j)];
        Real dz = dlse.defined() ? dlse.data<Real>()[r] * pj : Real(0);
        for (Index i = 0; dy.defined() && i < d; ++i) {
          const Real slope = Real(i == j) - pj;
          dz +=
              dy.data<Real>()[r * d + i] * (a.log ? slope : p[static_cast<std::size_t>(i)] * slope);
        }
        dx[r * d + j] = scale * dz;
      }
    }
  }
};

Cost cost(const Softmax::In<Tensor>& in, const Softmax::Attrs&) {
  return {.bytes = 2.0 * in.x.bytes(), .flops = 12.0 * in.x.numel()};
}

LS_OP(Softmax, "softmax",
      "softmax or log-softmax of scale * x over the last axis, and its normaliser")
    .in("x[...,D]")
    .out("y[...,D] lse[...]:acc")
    .saves("x")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
