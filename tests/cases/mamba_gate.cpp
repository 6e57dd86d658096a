#include "core/ops/mamba_gate/mamba_gate.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(MambaGate, "mamba_gate") {
  Draw draw("mamba_gate");
  const auto add = [&](const std::string& name, const Shape& x, bool bias, double scale = 1) {
    cases.add(name, {.x = draw.normal(x, scale),
                     .a_log = draw.normal({x.back()}),
                     .dt_bias = bias ? draw.normal({x.back()}) : Tensor()});
  };
  for (const Index h : {1, 2, 7, 8, 9, 17}) {
    add(fmt::format("{} heads", h), {2, 3, h}, true);
    add(fmt::format("{} heads, no bias", h), {2, 3, h}, false);
  }
  for (const Index heads : {1, 3}) {
    for (const bool bias : {false, true}) {
      cases.add(fmt::format("{} heads of 70 channels, bias {}", heads, bias),
                {.x = draw.normal({2, 5, heads * 70}),
                 .a_log = draw.normal({heads}),
                 .dt_bias = bias ? draw.normal({heads * 70}) : Tensor()});
    }
  }
  for (const double low : {-0.6, -5.0}) {
    cases.add(fmt::format("bounded by {}", low),
              {.x = draw.normal({3, 5, 3 * 70}, 2),
               .a_log = draw.normal({3}),
               .dt_bias = draw.normal({3 * 70})},
              {.lower_bound = low});
  }
  cases.add("bounded, far out", {.x = draw.normal({6, 5}, 50), .a_log = draw.normal({5})},
            {.lower_bound = -5});
  add("far out", {6, 5}, true, 50);
  add("one token", {4}, true);
  add("no tokens", {0, 4}, true);
  add("large", {5, 700, 9}, true);
}

}  // namespace
}  // namespace ls::test
