#include "core/ops/gru/gru.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = Gru::In<Tensor>;

LS_SCAN_CASES(Gru, "gru") {
  Draw draw("gru");
  const auto inputs = [&](Index b, Index t, Index d, Index heads) {
    return In{.gx = draw.normal({b, t, 3 * d}),
              .r = draw.normal({heads, 3 * d / heads, d / heads}, 0.4)};
  };
  cases.add("dense", inputs(2, 30, 6, 1));
  In carried = inputs(2, 30, 6, 3);
  carried.bias = draw.normal({18});
  carried.bias_n = draw.normal({6});
  carried.h0 = draw.uniform({2, 6}, -1, 1);
  cases.add("block-diagonal, biases, carried", carried);
  Gru::Attrs before;
  before.reset = Reset::kBefore;
  carried.bias_n = Tensor();
  cases.add("reset before, block-diagonal, bias, carried", carried, before);
  cases.add("one token", inputs(3, 1, 4, 1));
}

}  // namespace
}  // namespace ls::test
