#include "core/ops/bias_act/bias_act.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(BiasAct, "bias_act") {
  Draw draw("bias_act");
  for (int a = 0; a <= static_cast<int>(Act::kEluPlusOne); ++a) {
    cases.add(fmt::format("activation {}", a),
              {.x = draw.distinct({3, 17}), .bias = draw.uniform({17}, -0.1, 0.1)},
              {static_cast<Act>(a)});
  }
  cases.add("no bias", {.x = draw.normal({4, 9})});
  for (const Index d : {1, 7, 8, 9, 33, 64}) {
    cases.add(fmt::format("{} channels", d),
              {.x = draw.normal({2, 3, d}), .bias = draw.normal({d})});
  }
  cases.add("one row", {.x = draw.normal({12}), .bias = draw.normal({12})});
  cases.add("no rows", {.x = draw.normal({0, 5}), .bias = draw.normal({5})});
  cases.add("no channels", {.x = draw.normal({3, 0}), .bias = draw.normal({0})});
  cases.add("large", {.x = draw.normal({331, 193}), .bias = draw.normal({193})});
}

}  // namespace
}  // namespace ls::test
