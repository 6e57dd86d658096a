#include "core/ops/l2_norm/l2_norm.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(L2Norm, "l2_norm") {
  Draw draw("l2_norm");
  for (const L2Norm::Eps mode : {L2Norm::Eps::kInside, L2Norm::Eps::kMax, L2Norm::Eps::kOutside}) {
    const std::string kind = fmt::format("mode {}, ", static_cast<int>(mode));
    for (const Index d : {2, 7, 8, 9, 33, 64}) {
      cases.add(fmt::format("{}{} channels", kind, d), {.x = draw.normal({2, 3, d})}, {1e-2, mode});
    }
    // One channel over its length is nearly constant, unless eps is large.
    cases.add(kind + "1 channel", {.x = draw.distinct({2, 3, 1})}, {10, mode});
    cases.add(kind + "small rows", {.x = draw.normal({4, 5}, 0.1)}, {10, mode});
    cases.add(kind + "zero row", {.x = Tensor::zeros({2, 5}, DType::kF64)}, {1e-3, mode})
        .not_smooth();
    cases.add(kind + "one row", {.x = draw.normal({5})}, {1e-6, mode});
    cases.add(kind + "no rows", {.x = draw.normal({0, 4})}, {1e-6, mode});
    cases.add(kind + "large", {.x = draw.normal({7, 41, 193})}, {1e-6, mode});
  }
}

}  // namespace
}  // namespace ls::test
