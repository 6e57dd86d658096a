#include "core/ops/selective_scan/selective_scan.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = SelectiveScan::In<Tensor>;

In inputs(Draw& draw, Index b, Index t, Index d, Index g, Index s) {
  return {.x = draw.normal({b, t, d}),
          .dt = draw.uniform({b, t, d}, 0, 1),
          .a = draw.uniform({d, s}, -2, 0),
          .b = draw.normal({b, t, g, s}),
          .c = draw.normal({b, t, g, s})};
}

LS_SCAN_CASES(SelectiveScan, "selective_scan") {
  Draw draw("selective_scan");
  const auto mask = [](In& in, Index a, Index b) { in.dt.slice(1, a, b).zero_(); };
  for (const Index t : {1, 2, 63, 64, 65, 131}) {
    cases.add(fmt::format("{} tokens", t), inputs(draw, 2, t, 6, 1, 4)).mask(mask);
  }
  In carried = inputs(draw, 2, 37, 12, 2, 5);
  carried.s0 = draw.normal({2, 12, 5});
  cases.add("groups, carried", carried).mask(mask);
  cases.add("one element", inputs(draw, 1, 19, 1, 1, 1)).mask(mask);
  In extreme = inputs(draw, 1, 41, 4, 4, 16);
  extreme.dt = draw.uniform({1, 41, 4}, 0, 400);
  extreme.dt.slice(1, 0, 20).fill_(1e-4);
  cases.add("steps so long that nothing is left", extreme).not_smooth();
  cases.add("large", inputs(draw, 1, 150, 70, 1, 16));
}

}  // namespace
}  // namespace ls::test
