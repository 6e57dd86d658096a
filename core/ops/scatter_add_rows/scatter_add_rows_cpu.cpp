// y[index[i]] += x[i], and for the gradient dx[i] = dy[index[i]]: the loops of move_rows.h, which
// say who owns what.
#include "core/ops/scatter_add_rows/scatter_add_rows.h"

#include "core/op/declare.h"
#include "core/ops/common/indices.h"
#include "core/ops/common/move_rows.h"

namespace ls::ops {
namespace {

template <class T>
struct Kernel {
  static void forward(const ScatterAddRows::In<TensorView>& in,
                      ScatterAddRows::Out<TensorView>& out, const ScatterAddRows::Attrs& a) {
    if (!check_indices("scatter_add_rows", "index", in.index, -1, a.rows)) {
      return leave_zero(out);
    }
    scatter_add_rows<T>(in.x, in.index, out.y);
  }
  static void backward(const ScatterAddRows::In<TensorView>& in,
                       const ScatterAddRows::Out<TensorView>&,
                       const ScatterAddRows::Out<TensorView>& dout,
                       ScatterAddRows::In<TensorView>& din, const ScatterAddRows::Attrs& a) {
    if (!check_indices("scatter_add_rows", "index", in.index, -1, a.rows)) {
      return leave_zero(din);
    }
    gather_rows<T>(dout.y, in.index, din.x);
  }
};

LS_KERNEL(ScatterAddRows).reads("x y", lies::rows).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
