#include "core/ops/group_norm/group_norm.h"

#include "core/op/remade.h"
#include "core/ops/common/mean_norm_reference.h"

namespace ls::ops {
namespace {

void bind(const GroupNorm::In<ShapeOf>& in, const GroupNorm::Attrs& a, Bindings& b) {
  const Index d = in.x.size(-1);
  LS_CHECK(a.num_groups > 0 && d % a.num_groups == 0, kShape,
           "group_norm: argument x: {} channels do not divide into {} groups", d, a.num_groups);
  b.set("G", a.num_groups);
}

template <class Real>
using Reference = MeanNormReference<GroupNorm, Real>;

LS_OP(GroupNorm, "group_norm", "layer norm of channel groups (heads), gated")
    .in("x[...,D] weight[D]:acc? bias[D]:acc? z[...,D]?")
    .out("y[...,D] mean[...,G]:acc rstd[...,G]:acc")
    .saves("x weight bias z mean rstd")
    .bind(bind)
    .reference<Reference>()
    .cost(Reference<double>::cost);
LS_REMADE(GroupNorm, "y");

}  // namespace
}  // namespace ls::ops
