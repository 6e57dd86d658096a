// The loops of common/mean_norm.h with num_groups groups a row; layer_norm/NOTES.md has the gradient.
#include "core/ops/group_norm/group_norm.h"

#include "core/ops/common/mean_norm.h"

namespace ls::ops {
namespace {

MeanNormArgs args(const GroupNorm::Attrs& a) {
  return {.groups = a.num_groups, .eps = a.eps, .norm_before_gate = a.norm_before_gate};
}

template <class T>
struct Kernel {
  static void forward(const GroupNorm::In<Tensor>& in, GroupNorm::Out<Tensor>& out,
                      const GroupNorm::Attrs& a) {
    mean_norm_forward<T>(in, out, args(a));
  }
  static void backward(const GroupNorm::In<Tensor>& in, const GroupNorm::Out<Tensor>& out,
                       const GroupNorm::Out<Tensor>& dout, GroupNorm::In<Tensor>& din,
                       const GroupNorm::Attrs& a) {
    mean_norm_backward<T>(in, out, dout, din, args(a));
  }
};

LS_KERNEL(GroupNorm).kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
