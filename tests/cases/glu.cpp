#include "core/ops/glu/glu.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Glu, "glu") {
  Draw draw("glu");
  for (int a = 0; a <= static_cast<int>(Act::kEluPlusOne); ++a) {
    cases.add(fmt::format("activation {}", a), {.x = draw.distinct({2, 14})},
              {static_cast<Act>(a)});
  }
  for (const Index f : {1, 7, 8, 9, 33, 64}) {
    cases.add(fmt::format("halves of {}", f), {.x = draw.normal({2, 3, 2 * f})});
    cases.add(fmt::format("two of {}", f),
              {.gate = draw.normal({2, 3, f}), .up = draw.normal({2, 3, f})});
  }
  cases.add("one row", {.x = draw.normal({12})});
  cases.add("no rows", {.x = draw.normal({0, 4})});
  cases.add("no channels", {.gate = draw.normal({3, 0}), .up = draw.normal({3, 0})});
  cases.add("far out", {.gate = draw.normal({5, 9}, 100), .up = draw.normal({5, 9}, 10)});
  cases.add("large", {.x = draw.normal({150, 386})});
  cases.add("large, two", {.gate = draw.normal({150, 193}), .up = draw.normal({150, 193})});
}

}  // namespace
}  // namespace ls::test
