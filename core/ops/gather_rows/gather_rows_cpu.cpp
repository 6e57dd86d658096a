#include "core/ops/gather_rows/gather_rows.h"

#include "core/ops/gather_rows/move_rows.h"

namespace ls {
namespace {

template <class T>
struct GatherRowsLoops {
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

LS_KERNEL(GatherRows)
    .forward<double>(&GatherRowsLoops<double>::forward)
    .backward<double>(&GatherRowsLoops<double>::backward)
    .forward<float>(&GatherRowsLoops<float>::forward)
    .backward<float>(&GatherRowsLoops<float>::backward)
    .forward<bf16>(&GatherRowsLoops<bf16>::forward)
    .backward<bf16>(&GatherRowsLoops<bf16>::backward);

}  // namespace
}  // namespace ls
