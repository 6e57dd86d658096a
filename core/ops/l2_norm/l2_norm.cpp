#include "core/ops/l2_norm/l2_norm.h"

#include <algorithm>
#include <cmath>

#include "core/op/remade.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = L2Norm;

template <class Real>
struct Reference {
  static Real length(const View<const Real, 2>& x, Index r) {
    Real square = 0;
    for (Index c = 0; c < x.size(1); ++c) {
      square += x(r, c) * x(r, c);
    }
    return std::sqrt(square);
  }
  static Real divisor(Real length, const Op::Attrs& a) {
    const Real eps = Real(a.eps);
    switch (a.mode) {
      case Op::Eps::kInside:
        return std::sqrt(length * length + eps);
      case Op::Eps::kMax:
        return std::max(length, eps);
      default:
        return length + eps;
    }
  }
  /// d divisor / d length.
  static Real slope(Real length, const Op::Attrs& a) {
    switch (a.mode) {
      case Op::Eps::kInside:
        return length / divisor(length, a);
      case Op::Eps::kMax:
        return length > Real(a.eps) ? Real(1) : Real(0);
      default:
        return Real(1);
    }
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x);
    const common::Joined<Real, 2> y(out.y);
    for (Index r = 0; r < x.size(0); ++r) {
      const Real by = divisor(length(x, r), a);
      for (Index c = 0; c < x.size(1); ++c) {
        y(r, c) = x(r, c) / by;
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x), gy(dout.y);
    const common::Joined<Real, 2> gx(din.x);
    for (Index r = 0; r < x.size(0); ++r) {
      const Real n = length(x, r), by = divisor(n, a);
      Real dby = 0;
      for (Index c = 0; c < x.size(1); ++c) {
        dby -= gy(r, c) * x(r, c) / (by * by);
      }
      for (Index c = 0; c < x.size(1); ++c) {
        const Real dlength = n > 0 ? x(r, c) / n : Real(0);
        gx(r, c) = gy(r, c) / by + dby * slope(n, a) * dlength;
      }
    }
  }
};

LS_OP(L2Norm, "l2_norm", "rows divided by their length")
    .in("x[...,D]")
    .out("y[...,D]")
    .saves("x")
    .reference<Reference>()
    .cost(2, 3);
LS_REMADE(L2Norm, "y");

}  // namespace
}  // namespace ls::ops
