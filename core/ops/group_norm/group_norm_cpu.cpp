#include "core/ops/group_norm/group_norm.h"

#include "core/ops/layer_norm/mean_norm.h"

namespace ls {
namespace {

MeanNormArgs args(const GroupNorm::Attrs& a) {
  return {.groups = a.num_groups, .eps = a.eps, .norm_before_gate = a.norm_before_gate};
}

template <class T>
struct GroupNormRows {
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

LS_KERNEL(GroupNorm)
    .forward<double>(&GroupNormRows<double>::forward)
    .backward<double>(&GroupNormRows<double>::backward)
    .forward<float>(&GroupNormRows<float>::forward)
    .backward<float>(&GroupNormRows<float>::backward)
    .forward<bf16>(&GroupNormRows<bf16>::forward)
    .backward<bf16>(&GroupNormRows<bf16>::backward);

}  // namespace
}  // namespace ls
