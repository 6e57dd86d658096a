#include "core/ops/scatter_add_rows/scatter_add_rows.h"

#include <vector>

#include "core/ops/common/row_indices.h"

namespace ls::ops {
namespace {

void bind(const ScatterAddRows::In<Tensor>& in, const ScatterAddRows::Attrs& a, Bindings& b) {
  LS_CHECK(a.rows >= 0, kShape, "scatter_add_rows: {} rows", a.rows);
  check_row_indices("scatter_add_rows", in.index, a.rows);
  b.set("N", a.rows);
}

template <class Real>
struct Reference {
  static void forward(const ScatterAddRows::In<Tensor>& in, ScatterAddRows::Out<Tensor>& out,
                      const ScatterAddRows::Attrs&) {
    const std::vector<Real> x = in.x.to_vector<Real>();
    const Index d = in.x.size(-1);
    Real* y = out.y.zero_().data<Real>();
    auto from = x.begin();
    for (const std::int64_t row : in.index.to_vector<std::int64_t>()) {
      for (Index c = 0; c < d; ++c, ++from) {
        if (row >= 0) {
          y[row * d + c] += *from;
        }
      }
    }
  }
  static void backward(const ScatterAddRows::In<Tensor>& in, const ScatterAddRows::Out<Tensor>&,
                       const ScatterAddRows::Out<Tensor>& dout, ScatterAddRows::In<Tensor>& din,
                       const ScatterAddRows::Attrs&) {
    const std::vector<Real> dy = dout.y.to_vector<Real>();
    const Index d = din.x.size(-1);
    Real* dx = din.x.data<Real>();
    for (const std::int64_t row : in.index.to_vector<std::int64_t>()) {
      for (Index c = 0; c < d; ++c) {
        *dx++ = row < 0 ? Real(0) : dy[static_cast<std::size_t>(row * d + c)];
      }
    }
  }
};

Cost cost(const ScatterAddRows::In<Tensor>& in, const ScatterAddRows::Attrs& a) {
  const Index row = in.x.size(-1) * dtype_size(in.x.dtype());
  return {.bytes = 1.0 * in.x.bytes() + a.rows * row, .flops = 1.0 * in.x.numel()};
}

LS_OP(ScatterAddRows, "scatter_add_rows",
      "rows added into zeros by index; index -1 leaves a row out")
    .in("x[...,D] index[...]:i64")
    .out("y[N,D]")
    .saves("index")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
