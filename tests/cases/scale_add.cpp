#include "core/ops/scale_add/scale_add.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(ScaleAdd, "scale_add") {
  Draw draw("scale_add");
  for (const Index d : {1, 8, 33}) {
    cases.add(fmt::format("{} channels, one gain each", d),
              {.x = draw.normal({5, d}), .gain = draw.normal({d}), .base = draw.normal({5, d})});
    cases.add(fmt::format("{} channels, one factor", d),
              {.x = draw.normal({5, d}), .factor = draw.normal({5, 1})});
  }
  cases.add("heads", {.x = draw.normal({2, 7, 12}),
                      .factor = draw.normal({2, 7, 3}),
                      .gain = draw.normal({4}),
                      .base = draw.normal({2, 7, 12})});
  cases.add("a factor a channel", {.x = draw.normal({9, 6}), .factor = draw.normal({9, 6})});
  cases.add("one gain", {.x = draw.normal({3, 4}), .gain = draw.normal({1})});
  cases.add("no rows", {.x = draw.normal({0, 4}), .factor = draw.normal({0, 2})});
  cases.add("large", {.x = draw.normal({3, 171, 96}),
                      .factor = draw.normal({3, 171, 4}),
                      .gain = draw.normal({96})});
}

}  // namespace
}  // namespace ls::test
