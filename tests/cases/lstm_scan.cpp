#include "core/ops/lstm/lstm.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = Lstm::In<Tensor>;

LS_SCAN_CASES(Lstm, "lstm") {
  Draw draw("lstm");
  const auto inputs = [&](Index b, Index t, Index d, Index heads) {
    return In{.gx = draw.normal({b, t, 4 * d}),
              .r = draw.normal({heads, 4 * d / heads, d / heads}, 0.3)};
  };
  cases.add("dense", inputs(2, 30, 6, 1));
  In carried = inputs(2, 30, 6, 3);
  carried.bias = draw.normal({24});
  carried.h0 = draw.uniform({2, 6}, -1, 1);
  carried.c0 = draw.normal({2, 6});
  cases.add("block-diagonal, bias, carried", carried);
  cases.add("one token", inputs(3, 1, 4, 1));
}

}  // namespace
}  // namespace ls::test
