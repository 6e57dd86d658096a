#include "core/ops/cross_entropy/cross_entropy.h"

#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(CrossEntropy, "cross_entropy") {
  const ops::CrossEntropy::In<ag::Var> in = {
      .logits = c.in("logits"), .targets = c.in("targets"), .weights = c.acc_or_none("weights")};
  const ops::CrossEntropy::Attrs attrs = {
      .reduction = ops::CrossEntropy::Reduction(c.choice("reduction", {"mean", "sum", "none"})),
      .ignore_index = c.integer("ignore_index", -100),
      .label_smoothing = c.number("label_smoothing"),
      .z_loss = c.number("z_loss"),
      .softcap = c.number("softcap"),
      .logit_scale = c.number("logit_scale", 1)};
  const auto [loss, losses, lse] = ag::call<ops::CrossEntropy>(in, attrs);
  c.out("loss", loss.defined() ? loss : losses);
}

}  // namespace
}  // namespace ls::golden
