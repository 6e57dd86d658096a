#include "core/ops/mul/mul.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Mul, "mul") {
  Draw draw("mul");
  for (const Index d : {0, 1, 7, 8, 9, 33, 64}) {
    cases.add(fmt::format("{} channels", d), {.a = draw.normal({3, d}), .b = draw.normal({3, d})});
  }
  cases.add("rank 0", {.a = draw.normal({}), .b = draw.normal({})});
  cases.add("no rows", {.a = draw.normal({0, 3}), .b = draw.normal({0, 3})});
  cases.add("large", {.a = draw.normal({7, 41, 193}), .b = draw.normal({7, 41, 193})});
}

}  // namespace
}  // namespace ls::test
