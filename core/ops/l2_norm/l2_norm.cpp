#include "core/ops/l2_norm/l2_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace ls::ops {
namespace {

template <class Real>
struct Reference {
  static Real length(const Real* x, Index d) {
    Real square = 0;
    for (Index c = 0; c < d; ++c) {
      square += x[c] * x[c];
    }
    return std::sqrt(square);
  }
  static Real divisor(Real length, const L2Norm::Attrs& a) {
    const Real eps = static_cast<Real>(a.eps);
    switch (a.mode) {
      case L2Norm::Eps::kInside:
        return std::sqrt(length * length + eps);
      case L2Norm::Eps::kMax:
        return std::max(length, eps);
      default:
        return length + eps;
    }
  }
  /// d divisor / d length.
  static Real slope(Real length, const L2Norm::Attrs& a) {
    switch (a.mode) {
      case L2Norm::Eps::kInside:
        return length / divisor(length, a);
      case L2Norm::Eps::kMax:
        return length > static_cast<Real>(a.eps) ? Real(1) : Real(0);
      default:
        return Real(1);
    }
  }
  static void forward(const L2Norm::In<Tensor>& in, L2Norm::Out<Tensor>& out,
                      const L2Norm::Attrs& a) {
    const std::vector<Real> x = in.x.to_vector<Real>();
    const Index d = in.x.size(-1);
    for (Index i = 0; i < in.x.numel(); ++i) {
      const Real* row = x.data() + i / d * d;
      out.y.data<Real>()[i] = x[static_cast<std::size_t>(i)] / divisor(length(row, d), a);
    }
  }
  static void backward(const L2Norm::In<Tensor>& in, const L2Norm::Out<Tensor>&,
                       const L2Norm::Out<Tensor>& dout, L2Norm::In<Tensor>& din,
                       const L2Norm::Attrs& a) {
    const std::vector<Real> x = in.x.to_vector<Real>(), dy = dout.y.to_vector<Real>();
    const Index d = in.x.size(-1);
    for (Index begin = 0; begin < in.x.numel(); begin += d) {
      const Real* xp = x.data() + begin;
      const Real* gp = dy.data() + begin;
      const Real n = length(xp, d), by = divisor(n, a);
      Real dby = 0;
      for (Index c = 0; c < d; ++c) {
        dby -= gp[c] * xp[c] / (by * by);
      }
      for (Index c = 0; c < d; ++c) {
        const Real dlength = n > 0 ? xp[c] / n : Real(0);
        din.x.data<Real>()[begin + c] = gp[c] / by + dby * slope(n, a) * dlength;
      }
    }
  }
};

Cost cost(const L2Norm::In<Tensor>& in, const L2Norm::Attrs&) {
  return {.bytes = 2.0 * in.x.bytes(), .flops = 3.0 * in.x.numel()};
}

LS_OP(L2Norm, "l2_norm", "rows divided by their length")
    .in("x[...,D]")
    .out("y[...,D]")
    .saves("x")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
