#include "core/ops/group_norm/group_norm.h"
#include "core/ops/l2_norm/l2_norm.h"
#include "core/ops/layer_norm/layer_norm.h"
#include "core/ops/rms_norm/rms_norm.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

template <class Op>
typename Op::template In<ag::Var> operands(GoldenCall& c) {
  return {.x = c.in("x"),
          .weight = c.acc_or_none("weight"),
          .bias = c.acc_or_none("bias"),
          .z = c.in_or_none("z")};
}

LS_GOLDEN(LayerNorm, "layer_norm") {
  c.out("y", ag::call<ops::LayerNorm>(
                 operands<ops::LayerNorm>(c),
                 {.eps = c.number("eps"), .norm_before_gate = c.flag("norm_before_gate", true)})
                 .y);
}

LS_GOLDEN(GroupNorm, "group_norm") {
  c.ignore({"gate_after"});  // says only that z is there
  c.out("y",
        ag::call<ops::GroupNorm>(operands<ops::GroupNorm>(c),
                                 {.num_groups = c.integer("num_groups"), .eps = c.number("eps")})
            .y);
}

LS_GOLDEN(RmsNorm, "rms_norm") {
  const ops::RmsNorm::In<ag::Var> in = {
      .x = c.in("x"), .weight = c.acc_or_none("weight"), .z = c.in_or_none("z")};
  const bool sigmoid = c.choice("gate_activation", {"silu", "sigmoid"}) == 1;
  c.out("y", ag::call<ops::RmsNorm>(in, {.eps = c.number("eps"),
                                         .weight_offset = c.number("weight_offset"),
                                         .group_size = c.integer("group_size"),
                                         .norm_before_gate = c.flag("norm_before_gate", true),
                                         .gate_sigmoid = sigmoid})
                 .y);
}

LS_GOLDEN(L2Norm, "l2_norm") {
  const auto mode = ops::L2Norm::Eps(c.choice("eps_mode", {"inside", "max", "outside"}));
  c.out("y", ag::call<ops::L2Norm>({.x = c.in("x")}, {.eps = c.number("eps"), .mode = mode}).y);
}

}  // namespace
}  // namespace ls::golden
