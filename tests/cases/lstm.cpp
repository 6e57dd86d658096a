// What the scan cases (lstm_scan.cpp) leave out: packed documents, no tokens, saturated gates.
#include "core/ops/lstm/lstm.h"

#include <cmath>

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Lstm, "lstm") {
  Draw draw("lstm, options");
  const auto inputs = [&](Index b, Index t, Index d, Index heads, Index n, double scale = 1) {
    return Lstm::In<Tensor>{.gx = draw.normal({b, t, 4 * d}, scale),
                            .r = draw.normal({heads, 4 * d / heads, d / heads},
                                             std::min(0.3, 1 / std::sqrt(d / heads))),
                            .bias = draw.normal({4 * d}),
                            .h0 = draw.uniform({n, d}, -1, 1),
                            .c0 = draw.normal({n, d})};
  };
  auto packed = inputs(2, 15, 6, 2, 3);
  packed.offsets = Tensor::from<std::int64_t>({0, 6, 6, 7, 15, 22, 30, 30});
  cases.add("packed", packed);
  packed.h0 = packed.c0 = packed.bias = Tensor();
  cases.add("packed, no state, no bias", packed);
  cases.add("no tokens", inputs(2, 0, 6, 1, 2));
  cases.add("one channel", inputs(2, 3, 1, 1, 2));
  cases.add("saturated", inputs(2, 9, 4, 1, 2, 30));
  cases.add("large", inputs(8, 60, 64, 2, 8));
  // Weights of a head that no single processor of a GPU holds.
  cases.add("wide", inputs(19, 4, 132, 1, 19));
  for (const Index heads : {2, 3, 4}) {
    cases.add(fmt::format("{} wide heads", heads), inputs(2, 3, 256 * heads, heads, 2));
  }
}

}  // namespace
}  // namespace ls::test
