#include "core/ops/group_norm/group_norm.h"

#include "core/ops/common/mean_norm.h"

namespace ls::ops {
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

LS_KERNEL(GroupNorm).types<double, float, bf16>([]<class T>() {
  return std::pair(&GroupNormRows<T>::forward, &GroupNormRows<T>::backward);
});

}  // namespace
}  // namespace ls::ops
