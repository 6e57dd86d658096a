#include "core/ops/scatter_add_rows/scatter_add_rows.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(ScatterAddRows, "scatter_add_rows") {
  Draw draw("scatter_add_rows");
  const auto add = [&](const std::string& name, Index rows, Index d, const Shape& index) {
    Shape x = index;
    x.push_back(d);
    cases.add(name, {.x = draw.normal(x), .index = draw.integers(index, -1, rows)}, {rows});
  };
  add("repeated and left out", 4, 5, {3, 7});
  add("one row", 1, 17, {6});
  add("one channel", 5, 1, {6});
  add("no channels", 5, 0, {6});
  add("rank 0", 5, 3, {});
  add("no indices", 5, 3, {0});
  add("into nothing", 0, 3, {4});
  add("large", 97, 129, {3, 150});
  add("a few of many", 3000, 17, {9});
}

}  // namespace
}  // namespace ls::test
