#include "core/ops/gather_rows/gather_rows.h"

#include "core/ops/common/move_rows.cuh"

namespace ls::ops {
namespace {

using Op = GatherRows;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static RowIndex index(const Op::In<TensorView>& in, Index rows) {
    static const std::int32_t kBadIndex = error_source("gather_rows: index");
    return {in.index, rows, true, kBadIndex};
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    gather_rows<T>(cuda::RowsIn<T>(in.x), index(in, in.x.size(0)), in.x.size(1), A(1), out.y);
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    add_rows<T>(cuda::RowsIn<T>(dout.y), index(in, din.x.size(0)), din.x.size(1), A(1), -1, din.x);
  }
};

LS_KERNEL(GatherRows)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
