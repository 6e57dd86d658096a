#include "core/ops/scatter_add_rows/scatter_add_rows.h"

#include "core/ops/common/move_rows.cuh"

namespace ls::ops {
namespace {

using Op = ScatterAddRows;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static RowIndex index(const Op::In<TensorView>& in, const Op::Attrs& a) {
    static const std::int32_t kBadIndex = error_source("scatter_add_rows: index");
    return {in.index, a.rows, true, kBadIndex};
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    add_rows<T>(cuda::RowsIn<T>(in.x), index(in, a), in.x.size(-1), A(1), -1, out.y);
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    gather_rows<T>(cuda::RowsIn<T>(dout.y), index(in, a), din.x.size(-1), A(1), din.x);
  }
};

LS_KERNEL(ScatterAddRows)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
