#include "core/ops/row_normalize/row_normalize.h"

#include <vector>

namespace ls::ops {
namespace {

template <class Real>
struct Reference {
  using Op = RowNormalize;
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const std::vector<Real> x = in.x.to_vector<Real>();
    const std::size_t d = static_cast<std::size_t>(in.x.size(-1));
    Real* y = out.y.data<Real>();
    for (std::size_t row = 0; row < x.size(); row += d) {
      for (std::size_t i = 0; i + 1 < d; ++i) {
        *y++ = x[row + i] / (x[row + d - 1] + static_cast<Real>(a.eps));
      }
    }
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    const std::vector<Real> x = in.x.to_vector<Real>(), dy = dout.y.to_vector<Real>();
    const std::size_t d = static_cast<std::size_t>(in.x.size(-1));
    Real* dx = din.x.zero_().data<Real>();
    auto g = dy.begin();
    for (std::size_t row = 0; row < x.size(); row += d) {
      const Real divisor = x[row + d - 1] + static_cast<Real>(a.eps);
      for (std::size_t i = 0; i + 1 < d; ++i, ++g) {
        dx[row + i] = *g / divisor;
        dx[row + d - 1] -= *g * x[row + i] / (divisor * divisor);
      }
    }
  }
};

Cost cost(const RowNormalize::In<Tensor>& in, const RowNormalize::Attrs&) {
  return {.bytes = 2.0 * in.x.bytes(), .flops = 1.0 * in.x.numel()};
}

LS_OP(RowNormalize, "row_normalize", "leading channels divided by the last")
    .in("x[...,D]")
    .out("y[...,D-1]")
    .saves("x")
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
