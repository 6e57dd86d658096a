#include "core/ops/cumsum/cumsum.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Cumsum, "cumsum") {
  Draw draw("cumsum");
  for (const bool reverse : {false, true}) {
    for (const int axis : {0, 1, 2, -1, -3}) {
      cases.add(fmt::format("axis {}{}", axis, reverse ? ", reverse" : ""),
                {.x = draw.normal({3, 4, 5})}, {axis, reverse});
    }
    cases.add(reverse ? "large, reverse" : "large", {.x = draw.normal({3, 70, 300})}, {1, reverse});
    cases.add(reverse ? "long, reverse" : "long", {.x = draw.normal({40, 1000})}, {-1, reverse});
  }
  cases.add("one element", {.x = draw.normal({1})});
  cases.add("an empty axis", {.x = draw.normal({3, 0})});
  cases.add("no rows", {.x = draw.normal({0, 3})});
}

}  // namespace
}  // namespace ls::test
