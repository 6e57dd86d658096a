#include "core/ops/running_max/running_max.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(RunningMax, "running_max") {
  Draw draw("running_max");
  const auto inputs = [&](const Shape& shape, double spread) {
    return RunningMax::In<Tensor>{.g = draw.uniform(shape, -spread, 0),
                                  .a = draw.normal(shape, spread),
                                  .b = draw.normal(shape, spread)};
  };
  for (const Index n : {0, 1, 7, 8, 9, 33}) {
    cases.add(fmt::format("{} heads", n), inputs({3, n}, 2));
  }
  cases.add("far apart", inputs({2, 40}, 60));
  cases.add("rank 0", inputs({}, 1));
  cases.add("large", inputs({7, 41, 193}, 2)).not_smooth();  // some are near the corner
  RunningMax::In<Tensor> nothing = inputs({2, 5}, 1);
  nothing.a = Tensor::full({2, 5}, DType::kF64, -1e30);
  cases.add("nothing before", nothing);
}

}  // namespace
}  // namespace ls::test
