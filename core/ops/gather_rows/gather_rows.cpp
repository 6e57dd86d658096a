#include "core/ops/gather_rows/gather_rows.h"

#include <vector>

#include "core/ops/common/row_indices.h"

namespace ls::ops {
namespace {

void bind(const GatherRows::In<Tensor>& in, const GatherRows::Attrs&, Bindings&) {
  check_row_indices("gather_rows", in.index, in.x.size(0));
}

template <class Real>
struct Reference {
  static void forward(const GatherRows::In<Tensor>& in, GatherRows::Out<Tensor>& out,
                      const GatherRows::Attrs&) {
    const std::vector<Real> x = in.x.to_vector<Real>();
    const Index d = in.x.size(1);
    Real* y = out.y.data<Real>();
    for (const std::int64_t row : in.index.to_vector<std::int64_t>()) {
      for (Index c = 0; c < d; ++c) {
        *y++ = row < 0 ? Real(0) : x[static_cast<std::size_t>(row * d + c)];
      }
    }
  }
  static void backward(const GatherRows::In<Tensor>& in, const GatherRows::Out<Tensor>&,
                       const GatherRows::Out<Tensor>& dout, GatherRows::In<Tensor>& din,
                       const GatherRows::Attrs&) {
    const std::vector<Real> dy = dout.y.to_vector<Real>();
    const Index d = din.x.size(1);
    Real* dx = din.x.zero_().data<Real>();
    auto g = dy.begin();
    for (const std::int64_t row : in.index.to_vector<std::int64_t>()) {
      for (Index c = 0; c < d; ++c, ++g) {
        if (row >= 0) {
          dx[row * d + c] += *g;
        }
      }
    }
  }
};

Cost cost(const GatherRows::In<Tensor>& in, const GatherRows::Attrs&) {
  const Index row = in.x.size(1) * dtype_size(in.x.dtype());
  return {.bytes = 1.0 * in.index.numel() * (8 + 2 * row), .flops = 0};
}

LS_OP(GatherRows, "gather_rows", "rows by index; index -1 gives zeros")
    .in("x[N,D] index[...]:i64")
    .out("y[...,D]")
    .saves("index")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
