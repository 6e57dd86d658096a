#include "core/ops/rms_norm/rms_norm.h"

#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(RmsNorm, "rms_norm") {
  const bool sigmoid = c.choice("gate_activation", {"silu", "sigmoid"}) == 1;
  const ops::RmsNorm::In<ag::Var> in = {
      .x = c.in("x"), .weight = c.acc_or_none("weight"), .z = c.in_or_none("z")};
  c.out("y", ag::call<ops::RmsNorm>(in, {.eps = c.number("eps"),
                                         .weight_offset = c.number("weight_offset"),
                                         .group_size = c.integer("group_size"),
                                         .norm_before_gate = c.flag("norm_before_gate", true),
                                         .gate_sigmoid = sigmoid})
                 .y);
}

}  // namespace
}  // namespace ls::golden
