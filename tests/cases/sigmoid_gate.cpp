#include "core/ops/sigmoid_gate/sigmoid_gate.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(SigmoidGate, "sigmoid_gate") {
  Draw draw("sigmoid_gate");
  for (const double low : {0.0, 1e-6, 0.3, 0.95}) {
    const std::string bound = fmt::format("bound {}", low);
    cases.add(bound, {.x = draw.normal({3, 37}, 3)}, {.lower_bound = low});
    cases.add(bound + ", saturated",
              {.x = Tensor::from(std::vector<double>{-300, -80, -30, -12, 0, 12, 30, 80, 300})},
              {.lower_bound = low});
  }
  cases.add("bounds of channels",
            {.x = draw.normal({3, 5, 37}, 3), .low = draw.uniform({37}, 1e-3, 0.98)});
  cases.add("bounds of channels, many rows",
            {.x = draw.normal({300, 19}, 2), .low = draw.uniform({19}, 0.1, 0.9)});
  cases.add("bounds of channels, no rows",
            {.x = draw.normal({0, 4}), .low = draw.uniform({4}, 0.1, 0.9)});
  cases.add("no rows", {.x = draw.normal({0, 4})});
  cases.add("large", {.x = draw.normal({7, 41, 193})}, {.lower_bound = 0.1});
}

}  // namespace
}  // namespace ls::test
