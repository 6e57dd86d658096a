#include "core/ops/attention/attention.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = Attention::In<Tensor>;

LS_SCAN_CASES(Attention, "sliding_window") {
  Draw draw("sliding_window");
  const auto inputs = [&](Index b, Index t, Index hq, Index h, Index dk, Index dv) {
    return In{.q = draw.normal({b, t, hq, dk}),
              .k = draw.normal({b, t, h, dk}),
              .v = draw.normal({b, t, h, dv})};
  };
  Attention::Attrs attrs;
  attrs.scale = 0.4;
  for (const Index w : {1, 2, 9, 40, 64}) {
    attrs.window = w;
    cases.add(fmt::format("window of {}", w), inputs(2, 40, 2, 1, 4, 3), attrs);
  }

  attrs.window = 12;
  In full = inputs(1, 150, 2, 2, 4, 4);
  full.k0 = draw.normal({1, 11, 2, 4});
  full.v0 = draw.normal({1, 11, 2, 4});
  cases.add("carried, full", full, attrs);
  In partly = inputs(2, 5, 2, 2, 4, 4);
  partly.k0 = draw.normal({2, 3, 2, 4});
  partly.v0 = draw.normal({2, 3, 2, 4});
  cases.add("carried, fewer tokens than the window", partly, attrs);
  cases.add("one token", inputs(3, 1, 1, 1, 4, 4), attrs);

  In options = inputs(2, 41, 4, 2, 5, 3);
  options.sink = draw.normal({4});
  options.slopes = draw.uniform({4}, 0.01, 0.1);
  Attention::Attrs capped = attrs;
  capped.softcap = 2;
  cases.add("sink, slopes, capped", options, capped);
}

}  // namespace
}  // namespace ls::test
