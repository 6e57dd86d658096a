// y[i] = x[index[i]], and for the gradient dx[index[i]] += dy[i]: the loops of move_rows.h, which
// say who owns what.
#include "core/ops/gather_rows/gather_rows.h"

#include "core/ops/common/move_rows.h"

namespace ls::ops {
namespace {

template <class T>
struct Kernel {
  static void forward(const GatherRows::In<Tensor>& in, GatherRows::Out<Tensor>& out,
                      const GatherRows::Attrs&) {
    gather_rows<T>(in.x, in.index, out.y);
  }
  static void backward(const GatherRows::In<Tensor>& in, const GatherRows::Out<Tensor>&,
                       const GatherRows::Out<Tensor>& dout, GatherRows::In<Tensor>& din,
                       const GatherRows::Attrs&) {
    scatter_add_rows<T>(dout.y, in.index, din.x);
  }
};

LS_KERNEL(GatherRows).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
