#include "core/ops/gated_scan/gated_scan.h"

#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = GatedScan::In<Tensor>;

In random(Draw& draw, Index b, Index t, Index d) {
  return {.u = draw.normal({b, t, d}), .g = draw.uniform({b, t, d}, -3, 0)};
}

LS_SCAN_CASES(GatedScan, "gated_scan") {
  Draw draw("gated_scan, scan");
  const auto add = [&](const char* name, const In& in) {
    cases.add(name, in).mask([](In& masked, Index from, Index to) {
      masked.u.slice(1, from, to).zero_();
      masked.g.slice(1, from, to).zero_();
    });
  };
  add("plain", random(draw, 2, 31, 5));
  In carried = random(draw, 3, 30, 6);
  carried.h0 = draw.normal({3, 6});
  add("carried", carried);
  carried.g = draw.extreme_gates({3, 30, 6});
  add("extreme gates, carried", carried);
  add("one token", random(draw, 3, 1, 4));
}

LS_OP_CASES(GatedScan, "gated_scan") {
  Draw draw("gated_scan");
  for (const Index d : {1, 63, 64, 65, 130}) {
    In in = random(draw, 2, 7, d);
    in.h0 = draw.normal({2, d});
    cases.add(fmt::format("{} channels", d), in);
  }
  In packed = random(draw, 1, 15, 6);
  packed.offsets = Tensor::from<std::int64_t>({0, 6, 6, 7, 15});
  cases.add("packed", packed);
  packed.h0 = draw.normal({1, 6});
  packed.g = draw.extreme_gates({1, 15, 6});
  cases.add("packed, extreme gates, states", packed);
  In rows = random(draw, 2, 15, 6);
  rows.h0 = draw.normal({3, 6});
  rows.offsets = Tensor::from<std::int64_t>({0, 6, 6, 7, 15, 22, 30, 30});
  cases.add("packed rows, a state for documents inside", rows);
  In none = random(draw, 2, 0, 3);
  none.h0 = draw.normal({2, 3});
  cases.add("no tokens", none);
  In kept = random(draw, 1, 200, 3);
  kept.g = draw.uniform({1, 200, 3}, -1e-4, 0);
  cases.add("gates near 1", kept);
  cases.add("large", random(draw, 5, 300, 200));
  In segments = random(draw, 2, 700, 66);  // tiles of tokens, several segments of them
  segments.g = draw.uniform({2, 700, 66}, -0.05, 0);
  segments.h0 = draw.normal({2, 66});
  cases.add("long", segments);
  segments.offsets = Tensor::from<std::int64_t>({0, 1, 64, 64, 385, 700, 1100, 1399, 1400});
  cases.add("long, packed, states", segments);
}

}  // namespace
}  // namespace ls::test
