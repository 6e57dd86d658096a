#include "core/ops/attention/attention.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = Attention::In<Tensor>;

LS_SCAN_CASES(Attention, "attention") {
  Draw draw("attention");
  const auto inputs = [&](Index b, Index t, Index hq, Index h, Index dk, Index dv) {
    return In{.q = draw.normal({b, t, hq, dk}),
              .k = draw.normal({b, t, h, dk}),
              .v = draw.normal({b, t, h, dv})};
  };
  Attention::Attrs attrs;
  attrs.scale = 0.4;
  cases.add("causal", inputs(2, 70, 4, 2, 5, 3), attrs);

  In carried = inputs(1, 40, 2, 2, 4, 4);
  carried.k0 = draw.normal({1, 9, 2, 4});
  carried.v0 = draw.normal({1, 9, 2, 4});
  cases.add("carried cache", carried, attrs);
  cases.add("one token", inputs(2, 1, 2, 1, 4, 4), attrs);

  In options = inputs(2, 37, 4, 2, 5, 3);
  options.k0 = draw.normal({2, 6, 2, 5});
  options.v0 = draw.normal({2, 6, 2, 3});
  options.sink = draw.normal({4});
  options.slopes = draw.uniform({4}, 0.01, 0.1);
  Attention::Attrs capped = attrs;
  capped.softcap = 2;
  cases.add("sink, slopes, capped", options, capped);
}

}  // namespace
}  // namespace ls::test
