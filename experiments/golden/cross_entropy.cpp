#include "core/ops/cross_entropy/cross_entropy.h"

#include "experiments/golden/golden.h"

namespace ls::layers {
namespace {

ops::CrossEntropy::Reduction reduction(const std::string& name) {
  if (name == "mean") {
    return ops::CrossEntropy::Reduction::kMean;
  }
  if (name == "sum") {
    return ops::CrossEntropy::Reduction::kSum;
  }
  LS_CHECK(name == "none", kUnsupported, "reduction '{}' is not one of mean, sum, none", name);
  return ops::CrossEntropy::Reduction::kNone;
}

LS_GOLDEN("cross_entropy", [](GoldenCall& c) {
  const ops::CrossEntropy::In<ag::Var> in = {
      .logits = c.in("logits"), .targets = c.in("targets"), .weights = c.acc_or_none("weights")};
  const ops::CrossEntropy::Attrs attrs = {.reduction = reduction(c.text("reduction", "mean")),
                                          .ignore_index = c.integer("ignore_index", -100),
                                          .label_smoothing = c.number("label_smoothing"),
                                          .z_loss = c.number("z_loss"),
                                          .softcap = c.number("softcap"),
                                          .logit_scale = c.number("logit_scale", 1)};
  const auto [loss, losses, lse] = ag::call<ops::CrossEntropy>(in, attrs);
  c.out("loss", loss.defined() ? loss : losses);
});

}  // namespace
}  // namespace ls::layers
