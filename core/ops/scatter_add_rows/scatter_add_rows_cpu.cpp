#include "core/ops/scatter_add_rows/scatter_add_rows.h"

#include "core/ops/gather_rows/move_rows.h"

namespace ls {
namespace {

template <class T>
struct ScatterAddRowsLoops {
  static void forward(const ScatterAddRows::In<Tensor>& in, ScatterAddRows::Out<Tensor>& out,
                      const ScatterAddRows::Attrs&) {
    scatter_add_rows<T>(in.x, in.index, out.y);
  }
  static void backward(const ScatterAddRows::In<Tensor>& in, const ScatterAddRows::Out<Tensor>&,
                       const ScatterAddRows::Out<Tensor>& dout, ScatterAddRows::In<Tensor>& din,
                       const ScatterAddRows::Attrs&) {
    gather_rows<T>(dout.y, in.index, din.x);
  }
};

LS_KERNEL(ScatterAddRows)
    .forward<double>(&ScatterAddRowsLoops<double>::forward)
    .backward<double>(&ScatterAddRowsLoops<double>::backward)
    .forward<float>(&ScatterAddRowsLoops<float>::forward)
    .backward<float>(&ScatterAddRowsLoops<float>::backward)
    .forward<bf16>(&ScatterAddRowsLoops<bf16>::forward)
    .backward<bf16>(&ScatterAddRowsLoops<bf16>::backward);

}  // namespace
}  // namespace ls
