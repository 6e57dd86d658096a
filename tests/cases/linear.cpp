#include "core/ops/linear/linear.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Linear, "linear") {
  Draw draw("linear");
  const auto add = [&](const std::string& name, const Shape& x, Index o, bool bias) {
    cases.add(name, {.x = draw.normal(x),
                     .weight = draw.normal({o, x.back()}),
                     .bias = bias ? draw.normal({o}) : Tensor()});
  };
  for (const Index n : {1, 3, 8, 17}) {
    for (const Index i : {1, 7, 16, 33}) {
      add(fmt::format("{} rows, {} to {}", n, i, 34 - i), {n, i}, 34 - i, (n + i) % 2 == 0);
    }
  }
  for (const Index n : {1, 2, 3, 4}) {
    add(fmt::format("{} rows, long", n), {n, 1032}, 33, n % 2 == 0);
  }
  for (const Index o : {1, 6, 8, 9, 16}) {
    add(fmt::format("many rows to {}", o), {o % 2 == 0 ? 515 : 1201, 8 * (o + 30)}, o, o % 3 == 0);
  }
  add("leading axes", {2, 3, 5}, 4, true);
  add("one row", {5}, 4, true);
  add("no rows", {0, 5}, 4, true);
  add("nothing in", {3, 0}, 4, true);
  add("nothing out", {3, 5}, 0, true);
  add("one in, one out", {65, 1}, 1, true);
  add("large", {3, 65, 129}, 200, true);
}

}  // namespace
}  // namespace ls::test
