#include "core/ops/row_normalize/row_normalize.h"

#include "core/backend/cpu/parallel_for.h"

namespace ls {
namespace {

template <class Real>
struct RowNormalizeRef {
  using Op = RowNormalize;
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Tensor x = in.x.contiguous();
    const Index d = x.size(-1), rows = x.numel() / d;
    const Real* xp = x.data<Real>();
    Real* yp = out.y.data<Real>();
    parallel_for(rows, 256, [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        const Real inv = Real(1) / (xp[r * d + d - 1] + static_cast<Real>(a.eps));
        for (Index i = 0; i < d - 1; ++i) {
          yp[r * (d - 1) + i] = xp[r * d + i] * inv;
        }
      }
    });
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    const Tensor x = in.x.contiguous();
    const Tensor dy = dout.y.contiguous();
    const Index d = x.size(-1), rows = x.numel() / d;
    const Real* xp = x.data<Real>();
    const Real* gp = dy.data<Real>();
    Real* dx = din.x.data<Real>();
    parallel_for(rows, 256, [&](Index r0, Index r1) {
      for (Index r = r0; r < r1; ++r) {
        const Real inv = Real(1) / (xp[r * d + d - 1] + static_cast<Real>(a.eps));
        Real dot = 0;
        for (Index i = 0; i < d - 1; ++i) {
          const Real g = gp[r * (d - 1) + i];
          dx[r * d + i] = g * inv;
          dot += g * xp[r * d + i];
        }
        dx[r * d + d - 1] = -dot * inv * inv;
      }
    });
  }
};

Cost row_normalize_cost(const RowNormalize::In<Tensor>& in, const RowNormalize::Attrs&) {
  return {.bytes = 2.0 * static_cast<double>(in.x.bytes()),
          .flops = static_cast<double>(in.x.numel())};
}

LS_OP(RowNormalize, "row_normalize")
    .in("x[...,D]")
    .out("y[...,D-1]")
    .saves("x")
    .summary("leading channels divided by the last")
    .reference<RowNormalizeRef>()
    .cost(row_normalize_cost);

}  // namespace
}  // namespace ls
