#include "core/ops/top_k/top_k.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(TopK, "top_k") {
  Draw draw("top_k");
  for (const Index k : {1, 2, 8, 9}) {
    cases.add(fmt::format("{} of 9", k), {.x = draw.distinct({2, 3, 9})}, {k});
  }
  cases.add("1 of 1", {.x = draw.normal({4, 1})});
  cases.add("one row", {.x = draw.distinct({7})}, {3});
  cases.add("no rows", {.x = draw.normal({0, 7})}, {3});
  cases.add("equal ones", {.x = Tensor::from<double>({1, 3, 3, 2, 2, 2, 2, 2}, {2, 4})}, {3})
      .not_smooth();
  cases.add("large", {.x = draw.normal({300, 193})}, {17}).not_smooth();
}

}  // namespace
}  // namespace ls::test
