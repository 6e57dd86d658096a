#include "core/ops/linear_cross_entropy/linear_cross_entropy.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(LinearCrossEntropy, "linear_cross_entropy") {
  Draw draw("linear_cross_entropy");
  const auto inputs = [&](Index n, Index d, Index v, double scale) {
    return LinearCrossEntropy::In<Tensor>{.x = draw.normal({n, d}),
                                          .weight = draw.normal({v, d}, scale),
                                          .targets = draw.integers({n}, 0, v)};
  };
  cases.add("plain", inputs(5, 4, 7, 1));
  cases.add("one token", inputs(1, 9, 3, 1));
  cases.add("one class", inputs(3, 4, 1, 1));
  cases.add("one channel", inputs(3, 1, 5, 1));
  cases.add("no tokens", inputs(0, 4, 5, 1));
  cases.add("large logits", inputs(7, 8, 9, 8)).slack(10, "logits of size 25");
  auto some = inputs(6, 5, 8, 1);
  some.targets.slice(0, 1, 4).fill_(-100);
  cases.add("some ignored", some);
  auto other = inputs(6, 5, 8, 1);
  other.targets.slice(0, 1, 3).fill_(2);
  cases.add("class 2 ignored", other, {.ignore_index = 2});
  auto none = inputs(4, 5, 8, 1);
  none.targets.fill_(-100);
  cases.add("all ignored", none);
  cases.add("no gradients", inputs(5, 4, 7, 1), {.gradients = false}).forward_only();
  cases.add("large", inputs(150, 33, 130, 0.3));
  cases.add("whole packs of classes", inputs(150, 33, 132, 0.3));
  auto many = inputs(40, 5, 1090, 1);  // the last piece has classes outside whole tiles
  many.targets.slice(0, 3, 9).fill_(-100);
  many.targets.slice(0, 9, 14).fill_(1089);
  cases.add("many classes, some ignored", many);
  auto one = inputs(40, 5, 1090, 1);
  one.targets.slice(0, 9, 14).fill_(1089);
  cases.add("many classes, one ignored", one, {.ignore_index = 1089});
  cases.add("many classes, no gradients", many, {.gradients = false}).forward_only();
  cases.add("many classes, no tokens", inputs(0, 4, 1090, 1));
  // Class 6 is nearly certain: the loss and all gradients hang on the small rest.
  const auto sure = [&](Index classes) {
    auto in = inputs(33, 4, classes, 0.1);
    in.x.slice(1, 0, 1).fill_(3);
    in.weight.slice(0, 6, 7).fill_(0);
    in.weight.slice(0, 6, 7).slice(1, 0, 1).fill_(3);
    in.targets.fill_(6);
    return in;
  };
  cases.add("a sure class", sure(9));
  cases.add("many classes, a sure one", sure(1090));
  // Blocks of 64 tokens and a last one of 6.
  cases.add("very many classes, a sure one", sure(16500));
  auto last = inputs(20, 4, 16388, 0.5);
  last.targets.slice(0, 2, 6).fill_(-100);
  last.targets.slice(0, 6, 9).fill_(16387);
  cases.add("very many classes, some ignored", last);
  cases.add("very many classes, no gradients", last, {.gradients = false}).forward_only();
  cases.add("several blocks", inputs(70, 4, 16500, 0.5));
}

}  // namespace
}  // namespace ls::test
