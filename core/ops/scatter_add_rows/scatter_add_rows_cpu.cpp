#include "core/ops/scatter_add_rows/scatter_add_rows.h"

#include "core/ops/common/move_rows.h"

namespace ls::ops {
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

LS_KERNEL(ScatterAddRows).types<double, float, bf16>([]<class T>() {
  return std::pair(&ScatterAddRowsLoops<T>::forward, &ScatterAddRowsLoops<T>::backward);
});

}  // namespace
}  // namespace ls::ops
