// From tokens and to classes.
#include "core/ops/cross_entropy/cross_entropy.h"
#include "core/ops/embedding/embedding.h"
#include "core/ops/softmax/softmax.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(Embedding, "embedding") {
  const ops::Embedding::Attrs attrs = {.scale = c.number("scale", 1),
                                       .padding_idx = c.integer("padding_idx", -1)};
  c.out("y", ag::call<ops::Embedding>({.weight = c.in("weight"), .ids = c.in("ids")}, attrs).y);
}

LS_GOLDEN(Softmax, "softmax") {
  const auto [y, lse] = ag::call<ops::Softmax>(
      {.x = c.in("x")}, {.scale = c.number("scale", 1), .log = c.flag("log")});
  c.out("y", y);
  c.out("lse", lse);
}

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
