#include "core/ops/layer_norm/layer_norm.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(LayerNorm, "layer_norm") {
  Draw draw("layer_norm");
  for (const Index d : {1, 2, 7, 8, 9, 33, 64}) {
    cases.add(fmt::format("{} channels", d),
              {.x = draw.normal({2, 3, d}), .weight = draw.normal({d}), .bias = draw.normal({d})},
              {.eps = 1e-2});
  }
  // Rows that threads of a GPU hold, by the teams that do.
  for (const Index d : {72, 128, 384, 512, 1024, 2048, 4096}) {
    cases.add(fmt::format("{} channels", d),
              {.x = draw.normal({9, d}), .weight = draw.normal({d}), .bias = draw.normal({d})});
  }
  cases.add("many rows",
            {.x = draw.normal({4300, 64}), .weight = draw.normal({64}), .bias = draw.normal({64})});
  cases.add("neither weight nor bias", {.x = draw.normal({4, 9})});
  cases.add("bias alone", {.x = draw.normal({4, 9}), .bias = draw.normal({9})});
  for (const bool before : {true, false}) {
    const std::string kind = before ? "gate after the norm" : "gate before the norm";
    cases.add(kind,
              {.x = draw.normal({3, 12}),
               .weight = draw.normal({12}),
               .bias = draw.normal({12}),
               .z = draw.normal({3, 12})},
              {.norm_before_gate = before});
    cases.add(kind + " alone", {.x = draw.normal({3, 12}), .z = draw.normal({3, 12})},
              {.norm_before_gate = before});
  }
  Tensor shifted = draw.normal({4, 16});
  cases.add("far from 0", {.x = shifted.add_(Tensor::full({4, 16}, DType::kF64, 100))})
      .slack(100, "digits of the mean are lost");
  cases.add("one row", {.x = draw.normal({6}), .weight = draw.normal({6})});
  cases.add("no rows",
            {.x = draw.normal({0, 6}), .weight = draw.normal({6}), .bias = draw.normal({6})});
  cases.add(
      "large",
      {.x = draw.normal({331, 193}), .weight = draw.normal({193}), .bias = draw.normal({193})});
  cases.add("large, gated", {.x = draw.normal({5, 61, 193}),
                             .weight = draw.normal({193}),
                             .z = draw.normal({5, 61, 193})});
}

}  // namespace
}  // namespace ls::test
