// y[index[i]] += x[i], and for the gradient dx[i] = dy[index[i]]: the loops of move_rows.h, which
// say who owns what.
#include "core/ops/scatter_add_rows/scatter_add_rows.h"

#include "core/ops/common/move_rows.h"

namespace ls::ops {
namespace {

template <class T>
struct Kernel {
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

LS_KERNEL(ScatterAddRows).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
