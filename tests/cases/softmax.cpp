#include "core/ops/softmax/softmax.h"

#include <cmath>

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Softmax, "softmax") {
  Draw draw("softmax");
  for (const bool log : {false, true}) {
    const std::string kind = log ? "log, " : "";
    for (const Index d : {1, 2, 7, 8, 9, 33, 64}) {
      cases.add(fmt::format("{}{} classes", kind, d), {.x = draw.normal({2, 3, d})}, {1, log});
    }
    cases.add(kind + "scaled", {.x = draw.normal({4, 9})}, {-0.3, log});
    cases.add(kind + "large logits", {.x = draw.normal({6, 11}, 40)}, {1, log});
    cases
        .add(kind + "far from 0",
             {.x = draw.normal({6, 11}).add_(Tensor::full({6, 11}, DType::kF64, 1000))}, {1, log})
        .slack(log ? 300 : 1, "log-probabilities of size 3 from numbers of size 1000");
    cases.add(kind + "one row", {.x = draw.normal({5})}, {1, log});
    cases.add(kind + "no rows", {.x = draw.normal({0, 4})}, {1, log});
    cases.add(kind + "large", {.x = draw.normal({7, 41, 193}, 3)}, {0.7, log});
  }
  Tensor masked = draw.normal({4, 6});
  masked.slice(1, 4, 6).fill_(-INFINITY);
  cases.add("masked", {.x = masked}).not_smooth();
}

}  // namespace
}  // namespace ls::test
