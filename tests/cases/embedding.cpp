#include "core/ops/embedding/embedding.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Embedding, "embedding") {
  Draw draw("embedding");
  const auto inputs = [&](Index v, Index d, const Shape& ids) {
    return Embedding::In<Tensor>{.weight = draw.normal({v, d}), .ids = draw.integers(ids, 0, v)};
  };
  cases.add("repeated ids", inputs(4, 5, {3, 7}));
  cases.add("scaled", inputs(6, 8, {5}), {.scale = 2.5});
  cases.add("padding", inputs(3, 9, {12}), {.padding_idx = 1}).not_smooth();
  cases.add("one row", inputs(1, 17, {6}));
  cases.add("one channel", inputs(5, 1, {6}));
  cases.add("rank 0", inputs(5, 3, {}));
  cases.add("no ids", inputs(5, 3, {0}));
  cases.add("large", inputs(97, 129, {3, 150}));
}

}  // namespace
}  // namespace ls::test
