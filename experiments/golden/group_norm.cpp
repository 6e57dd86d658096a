#include "core/ops/group_norm/group_norm.h"

#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(GroupNorm, "group_norm") {
  const ops::GroupNorm::In<ag::Var> in = {.x = c.in("x"),
                                          .weight = c.acc_or_none("weight"),
                                          .bias = c.acc_or_none("bias"),
                                          .z = c.in_or_none("z")};
  c.ignore({"gate_after"});  // says only that z is there
  c.out("y", ag::call<ops::GroupNorm>(
                 in, {.num_groups = c.integer("num_groups"), .eps = c.number("eps")})
                 .y);
}

}  // namespace
}  // namespace ls::golden
