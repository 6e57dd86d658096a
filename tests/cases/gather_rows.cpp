#include "core/ops/gather_rows/gather_rows.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(GatherRows, "gather_rows") {
  Draw draw("gather_rows");
  const auto inputs = [&](Index n, Index d, const Shape& index) {
    return GatherRows::In<Tensor>{.x = draw.normal({n, d}), .index = draw.integers(index, -1, n)};
  };
  cases.add("repeated and left out", inputs(4, 5, {3, 7}));
  cases.add("one row", inputs(1, 17, {6}));
  cases.add("one channel", inputs(5, 1, {6}));
  cases.add("no channels", inputs(5, 0, {6}));
  cases.add("rank 0", inputs(5, 3, {}));
  cases.add("no indices", inputs(5, 3, {0}));
  cases.add("from nothing", inputs(0, 3, {4}));
  cases.add("large", inputs(97, 129, {3, 150}));
  cases.add("a few of many", inputs(3000, 17, {9}));
}

}  // namespace
}  // namespace ls::test
