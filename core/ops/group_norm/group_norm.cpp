#include "core/ops/group_norm/group_norm.h"

#include "core/ops/layer_norm/mean_norm.h"

namespace ls {
namespace {

MeanNormArgs args(const GroupNorm::Attrs& a) {
  return {.groups = a.num_groups, .eps = a.eps, .norm_before_gate = a.norm_before_gate};
}

void group_norm_bind(const GroupNorm::In<Tensor>& in, const GroupNorm::Attrs& a, Bindings& b) {
  const Index d = in.x.size(-1);
  LS_CHECK(a.num_groups > 0 && d % a.num_groups == 0, kShape,
           "group_norm: argument x: {} channels do not divide into {} groups", d, a.num_groups);
  b.set("G", a.num_groups);
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

Cost group_norm_cost(const GroupNorm::In<Tensor>& in, const GroupNorm::Attrs&) {
  const bool gated = in.z.defined();
  return {.bytes = (gated ? 3.0 : 2.0) * static_cast<double>(in.x.bytes()),
          .flops = (gated ? 16.0 : 8.0) * static_cast<double>(in.x.numel())};
}

LS_OP(GroupNorm, "group_norm")
    .in("x[...,D] weight[D]:acc? bias[D]:acc? z[...,D]?")
    .out("y[...,D] mean[...,G]:acc rstd[...,G]:acc")
    .saves("x weight bias z mean rstd")
    .bind(group_norm_bind)
    .summary("layer norm of channel groups (heads), gated")
    .reference<GroupNormRows>()
    .cost(group_norm_cost);

LS_KERNEL(GroupNorm)
    .forward<bf16>(&GroupNormRows<bf16>::forward)
    .backward<bf16>(&GroupNormRows<bf16>::backward);

}  // namespace
}  // namespace ls
