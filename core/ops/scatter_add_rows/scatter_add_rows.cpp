#include "core/ops/scatter_add_rows/scatter_add_rows.h"

#include "core/ops/gather_rows/move_rows.h"

namespace ls {
namespace {

void scatter_add_rows_bind(const ScatterAddRows::In<Tensor>&, const ScatterAddRows::Attrs& a,
                           Bindings& b) {
  LS_CHECK(a.rows >= 0, kShape, "scatter_add_rows: {} rows", a.rows);
  b.set("N", a.rows);
}

template <class T>
struct ScatterAddRowsLoops {
  static void forward(const ScatterAddRows::In<Tensor>& in, ScatterAddRows::Out<Tensor>& out,
                      const ScatterAddRows::Attrs& a) {
    check_row_indices("scatter_add_rows", in.index.contiguous(), a.rows);
    scatter_add_rows<T>(in.x, in.index, out.y);
  }
  static void backward(const ScatterAddRows::In<Tensor>& in, const ScatterAddRows::Out<Tensor>&,
                       const ScatterAddRows::Out<Tensor>& dout, ScatterAddRows::In<Tensor>& din,
                       const ScatterAddRows::Attrs&) {
    gather_rows<T>(dout.y, in.index, din.x);
  }
};

Cost scatter_add_rows_cost(const ScatterAddRows::In<Tensor>& in, const ScatterAddRows::Attrs& a) {
  const auto row = static_cast<double>(in.x.size(-1) * dtype_size(in.x.dtype()));
  return {.bytes = static_cast<double>(in.x.bytes()) + static_cast<double>(a.rows) * row,
          .flops = static_cast<double>(in.x.numel())};
}

LS_OP(ScatterAddRows, "scatter_add_rows")
    .in("x[...,D] index[...]:i64")
    .out("y[N,D]")
    .saves("index")
    .bind(scatter_add_rows_bind)
    .summary("rows added into zeros by index; index -1 leaves a row out")
    .reference<ScatterAddRowsLoops>()
    .cost(scatter_add_rows_cost);

LS_KERNEL(ScatterAddRows)
    .forward<bf16>(&ScatterAddRowsLoops<bf16>::forward)
    .backward<bf16>(&ScatterAddRowsLoops<bf16>::backward);

}  // namespace
}  // namespace ls
