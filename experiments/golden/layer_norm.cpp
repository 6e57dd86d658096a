#include "core/ops/layer_norm/layer_norm.h"

#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(LayerNorm, "layer_norm") {
  const ops::LayerNorm::In<ag::Var> in = {.x = c.in("x"),
                                          .weight = c.acc_or_none("weight"),
                                          .bias = c.acc_or_none("bias"),
                                          .z = c.in_or_none("z")};
  c.out("y", ag::call<ops::LayerNorm>(
                 in, {.eps = c.number("eps"), .norm_before_gate = c.flag("norm_before_gate", true)})
                 .y);
}

}  // namespace
}  // namespace ls::golden
