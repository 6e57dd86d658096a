#include "core/ops/glu_linear/glu_linear.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(GluLinear, "glu_linear") {
  Draw draw("glu_linear");
  const auto inputs = [&](Shape rows, Index f, Index d) {
    rows.push_back(2 * f);
    return GluLinear::In<Tensor>{.x = draw.normal(rows), .weight = draw.normal({d, f})};
  };
  for (int a = 0; a <= static_cast<int>(Act::kEluPlusOne); ++a) {
    cases.add(fmt::format("activation {}", a),
              {.x = draw.distinct({2, 14}), .weight = draw.normal({3, 7})}, {static_cast<Act>(a)});
  }
  for (const Index f : {1, 7, 16, 33}) {
    cases.add(fmt::format("{} hidden", f), inputs({2, 3}, f, 34 - f));
  }
  cases.add("one row", inputs({}, 6, 4));
  cases.add("no rows", inputs({0}, 4, 3));
  cases.add("nothing hidden", inputs({3}, 0, 4));
  cases.add("nothing out", inputs({3}, 4, 0));
  cases.add("blocks of rows", inputs({7, 101}, 20, 24));
  cases.add("a large weight", inputs({150}, 210, 170));
}

}  // namespace
}  // namespace ls::test
