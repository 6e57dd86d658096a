#include "core/ops/softmax/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = Softmax;

template <class Real>
struct Reference {
  /// z = scale x of one row; p = exp(z - top) / sum.
  struct Row {
    Row(const View<const Real, 2>& all, Index row, Real factor)
        : x(all), r(row), scale(factor), p(x.size(1)) {
      for (Index c = 0; c < p.size(); ++c) {
        top = std::max(top, z(c));
      }
      for (Index c = 0; c < p.size(); ++c) {
        sum += std::exp(z(c) - top);
      }
      for (Index c = 0; c < p.size(); ++c) {
        p(c) = std::exp(z(c) - top) / sum;
      }
    }
    Real z(Index c) const { return scale * x(r, c); }
    const View<const Real, 2>& x;
    Index r;
    Real scale;
    Buffer<Real> p;
    Real top = -std::numeric_limits<Real>::infinity(), sum = 0;
  };
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x);
    const common::Joined<Real, 2> y(out.y);
    const common::Joined<Real, 1> lse(out.lse);
    for (Index r = 0; r < x.size(0); ++r) {
      const Row row(x, r, Real(a.scale));
      for (Index c = 0; c < x.size(1); ++c) {
        y(r, c) = a.log ? row.z(c) - row.top - std::log(row.sum) : row.p(c);
      }
      lse(r) = row.top + std::log(row.sum);
    }
  }
  // dy_i/dz_j is p_i ([i = j] - p_j), or [i = j] - p_j of the logarithm, and dlse/dz_j is p_j.
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x), gy(dout.y);
    const common::Joined<const Real, 1> glse(dout.lse);
    const common::Joined<Real, 2> gx(din.x);
    const Index n = x.size(1);
    for (Index r = 0; r < x.size(0); ++r) {
      const Row row(x, r, Real(a.scale));
      for (Index j = 0; j < n; ++j) {
        Real dz = common::or_zero(glse, r) * row.p(j);
        for (Index i = 0; i < n; ++i) {
          const Real slope = Real(i == j) - row.p(j);
          dz += common::or_zero(gy, r, i) * (a.log ? slope : row.p(i) * slope);
        }
        gx(r, j) = Real(a.scale) * dz;
      }
    }
  }
};

LS_OP(Softmax, "softmax",
      "softmax or log-softmax of scale * x over the last axis, and its normaliser")
    .in("x[...,D]")
    .out("y[...,D] lse[...]:acc")
    .saves("x")
    .reference<Reference>()
    .cost(2, 12);

}  // namespace
}  // namespace ls::ops
