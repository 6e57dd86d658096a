// y[i] = x[index[i]], and for the gradient dx[index[i]] += dy[i]: the loops of move_rows.h, which
// say who owns what.
#include "core/ops/gather_rows/gather_rows.h"

#include "core/op/declare.h"
#include "core/ops/common/indices.h"
#include "core/ops/common/move_rows.h"

namespace ls::ops {
namespace {

template <class T>
struct Kernel {
  static void forward(const GatherRows::In<TensorView>& in, GatherRows::Out<TensorView>& out,
                      const GatherRows::Attrs&) {
    if (!check_indices("gather_rows", "index", in.index, -1, in.x.size(0))) {
      return leave_zero(out);
    }
    gather_rows<T>(in.x, in.index, out.y);
  }
  static void backward(const GatherRows::In<TensorView>& in, const GatherRows::Out<TensorView>&,
                       const GatherRows::Out<TensorView>& dout, GatherRows::In<TensorView>& din,
                       const GatherRows::Attrs&) {
    scatter_add_rows<T>(dout.y, in.index, din.x);
  }
};

LS_KERNEL(GatherRows).reads("x y", lies::rows).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
