// Rows of the table; the gradient sums the tokens of each id, sorted by id.
#include "core/ops/embedding/embedding.h"

#include "core/ops/common/move_rows.cuh"

namespace ls::ops {
namespace {

using Op = Embedding;

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static RowIndex ids(const Op::In<TensorView>& in, Index rows) {
    static const std::int32_t kBadId = error_source("embedding: id");
    return {in.ids, rows, false, kBadId};
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    gather_rows<T>(cuda::RowsIn<T>(in.weight), ids(in, in.weight.size(0)), in.weight.size(1),
                   static_cast<A>(a.scale), out.y);
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    add_rows<T>(cuda::RowsIn<T>(dout.y), ids(in, din.weight.size(0)), din.weight.size(1),
                static_cast<A>(a.scale), a.padding_idx, din.weight);
  }
};

LS_KERNEL(Embedding)
    .on(DeviceType::kCuda)
    .reads("y", lies::rows)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
