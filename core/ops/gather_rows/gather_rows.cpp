#include "core/ops/gather_rows/gather_rows.h"

#include "core/ops/gather_rows/move_rows.h"

namespace ls {
namespace {

template <class T>
struct GatherRowsLoops {
  static void forward(const GatherRows::In<Tensor>& in, GatherRows::Out<Tensor>& out,
                      const GatherRows::Attrs&) {
    check_row_indices("gather_rows", in.index.contiguous(), in.x.size(0));
    gather_rows<T>(in.x, in.index, out.y);
  }
  static void backward(const GatherRows::In<Tensor>& in, const GatherRows::Out<Tensor>&,
                       const GatherRows::Out<Tensor>& dout, GatherRows::In<Tensor>& din,
                       const GatherRows::Attrs&) {
    scatter_add_rows<T>(dout.y, in.index, din.x);
  }
};

Cost gather_rows_cost(const GatherRows::In<Tensor>& in, const GatherRows::Attrs&) {
  const auto row = static_cast<double>(in.x.size(1) * dtype_size(in.x.dtype()));
  return {.bytes = static_cast<double>(in.index.numel()) * (8 + 2 * row), .flops = 0};
}

LS_OP(GatherRows, "gather_rows")
    .in("x[N,D] index[...]:i64")
    .out("y[...,D]")
    .saves("index")
    .summary("rows by index; index -1 gives zeros")
    .reference<GatherRowsLoops>()
    .cost(gather_rows_cost);

LS_KERNEL(GatherRows)
    .forward<bf16>(&GatherRowsLoops<bf16>::forward)
    .backward<bf16>(&GatherRowsLoops<bf16>::backward);

}  // namespace
}  // namespace ls
