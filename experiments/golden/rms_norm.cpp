#include "core/ops/rms_norm/rms_norm.h"

#include "experiments/golden/golden.h"

namespace ls::layers {
namespace {

LS_GOLDEN("rms_norm", [](GoldenCall& c) {
  const std::string gate = c.text("gate_activation", "silu");
  LS_CHECK(gate == "silu" || gate == "sigmoid", kUnsupported,
           "gate_activation '{}' is not one of silu, sigmoid", gate);
  const ops::RmsNorm::In<ag::Var> in = {
      .x = c.in("x"), .weight = c.acc_or_none("weight"), .z = c.in_or_none("z")};
  c.out("y", ag::call<ops::RmsNorm>(in, {.eps = c.number("eps"),
                                         .weight_offset = c.number("weight_offset"),
                                         .group_size = c.integer("group_size"),
                                         .norm_before_gate = c.flag("norm_before_gate", true),
                                         .gate_sigmoid = gate == "sigmoid"})
                 .y);
});

}  // namespace
}  // namespace ls::layers
