#include "core/ops/add_rms_norm/add_rms_norm.h"

#include <cmath>

#include "core/op/remade.h"
#include "core/ops/common/reference.h"

namespace ls::ops {
namespace {

using Op = AddRmsNorm;

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const common::Joined<const Real, 2> x(in.x), residual(in.residual);
    const View<const Real, 1> weight(in.weight);
    const common::Joined<Real, 2> sum(out.sum), y(out.y);
    const common::Joined<Real, 1> rstd(out.rstd);
    const Index d = x.size(1);
    for (Index r = 0; r < x.size(0); ++r) {
      Real square = 0;
      for (Index c = 0; c < d; ++c) {
        sum(r, c) = residual(r, c) + x(r, c);
        square += sum(r, c) * sum(r, c);
      }
      rstd(r) = 1 / std::sqrt(square / Real(d) + Real(a.eps));
      for (Index c = 0; c < d; ++c) {
        y(r, c) = sum(r, c) * rstd(r) * weight(c);
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const common::Joined<const Real, 2> sum(out.sum), gsum(dout.sum), gy(dout.y);
    const common::Joined<const Real, 1> rstd(out.rstd);
    const View<const Real, 1> weight(in.weight);
    auto d = common::zero_gradients(in, din);
    const common::Joined<Real, 2> gx(d.x.defined() ? d.x : d.residual);
    const View<Real, 1> gweight(d.weight);
    for (Index r = 0; r < sum.size(0); ++r) {
      const Real k = rstd(r), n = Real(sum.size(1));
      Real mean = 0;
      for (Index c = 0; c < sum.size(1); ++c) {
        mean += common::or_zero(gy, r, c) * weight(c) * sum(r, c) / n;
      }
      for (Index c = 0; c < sum.size(1); ++c) {
        const Real s = sum(r, c), dy = common::or_zero(gy, r, c);
        if (gx) {
          gx(r, c) = common::or_zero(gsum, r, c) + k * (dy * weight(c) - s * k * k * mean);
        }
        gweight(c) += dy * s * k;
      }
    }
  }
};

LS_OP(AddRmsNorm, "add_rms_norm", "residual sum and its root-mean-square norm")
    .in("x[...,D] residual[...,D] weight[D]:acc")
    .out("sum[...,D] y[...,D] rstd[...]:acc")
    .saves("weight sum rstd")
    .no_grad("rstd")
    .same_gradient("x", "residual")
    .reference<Reference>()
    .cost(4, 5);
LS_REMADE(AddRmsNorm, "y").from("x", "sum").nothing("residual");

}  // namespace
}  // namespace ls::ops
