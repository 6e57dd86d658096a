#include "core/ops/activation/activation.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Activation, "activation") {
  Draw draw("activation");
  for (int a = 0; a <= static_cast<int>(Act::kEluPlusOne); ++a) {
    const Activation::Attrs attrs{static_cast<Act>(a)};
    // An eighth and more from the corners at 0; exp stays within f16.
    cases.add(fmt::format("activation {}", a), {.x = draw.distinct({3, 17})}, attrs);
    cases.add(fmt::format("activation {}, at 0", a), {.x = Tensor::zeros({5}, DType::kF64)}, attrs)
        .not_smooth();
    if (attrs.activation != Act::kExp) {
      cases.add(fmt::format("activation {}, far out", a),
                {.x = Tensor::from(std::vector<double>{-200, -90, -30, 30, 90, 200})}, attrs);
    }
  }
  const Activation::Attrs silu{Act::kSilu};
  for (const Index n : {0, 1, 7, 8, 9, 15, 16, 17, 64, 65}) {
    cases.add(fmt::format("{} elements", n), {.x = draw.normal({n})}, silu);
  }
  cases.add("rank 0", {.x = draw.normal({})}, silu);
  cases.add("no rows", {.x = draw.normal({0, 5})}, silu);
  cases.add("large", {.x = draw.normal({7, 41, 193})}, {Act::kGeluErf});
}

}  // namespace
}  // namespace ls::test
