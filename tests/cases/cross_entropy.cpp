#include "core/ops/cross_entropy/cross_entropy.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(CrossEntropy, "cross_entropy") {
  Draw draw("cross_entropy");
  using Reduction = CrossEntropy::Reduction;
  const auto inputs = [&](const Shape& lead, Index v, double scale = 1) {
    Shape shape = lead;
    shape.push_back(v);
    return CrossEntropy::In<Tensor>{.logits = draw.normal(shape, scale),
                                    .targets = draw.integers(lead, 0, v)};
  };
  for (const Reduction r : {Reduction::kMean, Reduction::kSum, Reduction::kNone}) {
    const std::string kind = fmt::format("reduction {}, ", static_cast<int>(r));
    CrossEntropy::Attrs attrs;
    attrs.reduction = r;
    cases.add(kind + "plain", inputs({2, 3}, 7), attrs);
    auto weighted = inputs({6}, 9);
    weighted.targets.slice(0, 1, 3).fill_(-100);
    weighted.weights = draw.uniform({6}, 0, 2);
    attrs.label_smoothing = 0.1;
    attrs.z_loss = 0.01;
    attrs.softcap = 5;
    attrs.logit_scale = 0.7;
    cases.add(kind + "weights, ignored, smoothed, z-loss, capped, scaled", weighted, attrs);
    auto none = inputs({4}, 5);
    none.targets.fill_(-100);
    cases.add(kind + "all ignored", none, attrs);
    cases.add(kind + "no tokens", inputs({0}, 5), attrs);
  }
  for (const Index v : {1, 2, 8, 17, 64, 65}) {
    cases.add(fmt::format("{} classes", v), inputs({3}, v));
  }
  cases.add("one token", inputs({}, 6));
  cases.add("smoothed", inputs({4}, 6), {.label_smoothing = 0.3});
  cases.add("z-loss", inputs({4}, 6), {.z_loss = 0.1});
  cases.add("capped", inputs({4}, 6, 5), {.softcap = 2});
  cases.add("scaled", inputs({4}, 6), {.logit_scale = -2});
  cases.add("large logits", inputs({5}, 9, 50));
  auto other = inputs({6}, 5);
  other.targets.slice(0, 1, 3).fill_(3);
  cases.add("class 3 ignored", other, {.ignore_index = 3});
  cases.add("large", inputs({7, 41}, 193));
}

}  // namespace
}  // namespace ls::test
