#include "core/ops/row_decay/row_decay.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(RowDecay, "row_decay") {
  Draw draw("row_decay");
  const auto add = [&](const std::string& name, Index tokens, Index n, Index h, bool heads,
                       bool channels, DecaySpan span, double low = -1) {
    cases.add(fmt::format("{}, {}", name, enum_name(span)),
              {.x = draw.normal({2, tokens, n, 5}),
               .g = heads ? draw.uniform({2, tokens, h}, low, 0) : Tensor(),
               .gk = channels ? draw.uniform({2, tokens, h, 5}, low, 0) : Tensor()},
              {.span = span, .scale = 0.5});
  };
  for (const DecaySpan span : {DecaySpan::kBehind, DecaySpan::kUpTo, DecaySpan::kBefore}) {
    add("no decay", 7, 3, 3, false, false, span);
    add("by head", 7, 3, 3, true, false, span);
    add("by channel", 7, 3, 3, false, true, span);
    add("both, shared decays", 11, 4, 2, true, true, span);
    add("both, shared tokens", 11, 2, 6, true, true, span);
    add("one token", 1, 2, 2, true, true, span);
    add("no token", 0, 2, 2, true, true, span);
    add("far out", 9, 2, 2, true, true, span, -200);
    add("long", 300, 2, 1, false, true, span, -0.02);
  }
}

}  // namespace
}  // namespace ls::test
