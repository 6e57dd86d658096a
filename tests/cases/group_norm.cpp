#include "core/ops/group_norm/group_norm.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(GroupNorm, "group_norm") {
  Draw draw("group_norm");
  for (const Index groups : {1, 2, 3, 6}) {
    cases.add(
        fmt::format("{} groups of 12 channels", groups),
        {.x = draw.normal({2, 3, 12}), .weight = draw.normal({12}), .bias = draw.normal({12})},
        {.num_groups = groups, .eps = 1e-2});
  }
  cases.add("groups of 1", {.x = draw.normal({3, 5})}, {.num_groups = 5, .eps = 0.1});
  cases.add("neither weight nor bias", {.x = draw.normal({4, 9})}, {.num_groups = 3});
  for (const bool before : {true, false}) {
    const std::string kind = before ? "gate after the norm" : "gate before the norm";
    cases.add(kind,
              {.x = draw.normal({3, 12}),
               .weight = draw.normal({12}),
               .bias = draw.normal({12}),
               .z = draw.normal({3, 12})},
              {.num_groups = 2, .norm_before_gate = before});
    cases.add(kind + " alone", {.x = draw.normal({3, 12}), .z = draw.normal({3, 12})},
              {.num_groups = 2, .norm_before_gate = before});
  }
  cases.add("one row", {.x = draw.normal({6}), .bias = draw.normal({6})}, {.num_groups = 2});
  cases.add("no rows", {.x = draw.normal({0, 6}), .weight = draw.normal({6})}, {.num_groups = 2});
  cases.add(
      "large",
      {.x = draw.normal({5, 61, 192}), .weight = draw.normal({192}), .bias = draw.normal({192})},
      {.num_groups = 4});
}

}  // namespace
}  // namespace ls::test
