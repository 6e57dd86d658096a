#include "core/ops/gather_rows/gather_rows.h"

#include "core/ops/common/move_rows.h"

namespace ls::ops {
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

LS_KERNEL(GatherRows).types<double, float, bf16>([]<class T>() {
  return std::pair(&GatherRowsLoops<T>::forward, &GatherRowsLoops<T>::backward);
});

}  // namespace
}  // namespace ls::ops
