#include "core/ops/row_normalize/row_normalize.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(RowNormalize, "row_normalize") {
  Draw draw("row_normalize");
  const auto rows = [&](const Shape& shape, double lo, double hi) {
    Tensor x = draw.normal(shape);
    Tensor last = x.slice(-1, shape.back() - 1, shape.back());
    last.copy_(draw.uniform(last.shape(), lo, hi));
    return x;
  };
  for (const Index d : {2, 8, 9, 17, 65}) {
    cases.add(fmt::format("{} channels", d), {.x = rows({2, 3, d}, 0.5, 2)});
  }
  cases.add("negative denominators", {.x = rows({5, 4}, -2, -0.5)}, {0.25});
  cases.add("no eps", {.x = rows({5, 4}, 0.5, 2)}, {0});
  cases.add("the denominator alone", {.x = rows({5, 1}, 0.5, 2)});
  cases.add("one row", {.x = rows({6}, 0.5, 2)});
  cases.add("no rows", {.x = draw.normal({0, 4})});
  cases.add("large", {.x = rows({7, 150, 65}, 0.5, 2)});
}

}  // namespace
}  // namespace ls::test
