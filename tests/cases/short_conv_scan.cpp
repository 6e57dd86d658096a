#include "core/ops/short_conv/short_conv.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = ShortConv::In<Tensor>;

LS_SCAN_CASES(ShortConv, "short_conv") {
  Draw draw("short_conv");
  const auto inputs = [&](Index b, Index t, Index d, Index w) {
    return In{.x = draw.normal({b, t, d}), .weight = draw.normal({d, w})};
  };
  ShortConv::Attrs silu;
  silu.silu = true;

  cases.add("four taps", inputs(2, 50, 6, 4));
  In carried = inputs(1, 30, 5, 4);
  carried.bias = draw.normal({5});
  carried.s0 = draw.normal({1, 5, 3});
  cases.add("bias, silu, carried", carried, silu);
  cases.add("shorter than the window", inputs(2, 3, 4, 8), silu);
  cases.add("token shift", inputs(2, 20, 7, 2));
  cases.add("one tap", inputs(2, 12, 3, 1));
  cases.add("one token", inputs(2, 1, 3, 4));
}

}  // namespace
}  // namespace ls::test
