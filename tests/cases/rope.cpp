#include "core/ops/rope/rope.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Rope, "rope") {
  Draw draw("rope");
  const auto inputs = [&](Index b, Index t, Index h, Index d, Index last) {
    return Rope::In<Tensor>{.x = draw.normal({b, t, h, d}),
                            .positions = draw.integers({b, t}, 0, last + 1)};
  };
  for (const bool interleaved : {false, true}) {
    const std::string kind = interleaved ? "interleaved, " : "";
    cases.add(kind + "all channels", inputs(2, 3, 2, 6, 5), {.interleaved = interleaved});
    cases.add(kind + "some channels", inputs(2, 3, 2, 11, 5),
              {.rotary_dim = 6, .interleaved = interleaved});
    auto given = inputs(1, 4, 3, 9, 100);
    given.inv_freq = draw.uniform({4}, 0.01, 1);
    cases.add(kind + "given frequencies", given,
              {.interleaved = interleaved, .attention_factor = 1.3});
    cases.add(kind + "large", inputs(2, 150, 5, 34, 200), {.interleaved = interleaved});
  }
  cases.add("far positions", inputs(1, 5, 1, 8, 1 << 30), {.theta = 500000});
  auto negative = inputs(1, 5, 1, 8, 9);
  negative.positions = draw.integers({1, 5}, -9, 0);
  cases.add("negative positions", negative);
  cases.add("one pair", inputs(1, 1, 1, 2, 9));
  cases.add("no tokens", inputs(2, 0, 2, 4, 9));
}

}  // namespace
}  // namespace ls::test
