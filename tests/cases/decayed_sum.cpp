#include "core/ops/decayed_sum/decayed_sum.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

/// Numbers of heads; 0: absent.
struct Heads {
  Index x = 0, y = 0, s = 0, g = 0, gk = 0, gv = 0;
};

LS_OP_CASES(DecayedSum, "decayed_sum") {
  Draw draw("decayed_sum");
  const auto add = [&](const std::string& name, Index tokens, const Heads& n, DecaySpan span,
                       double low = -1, bool totals = false) {
    const auto decays = [&](Index heads, Index d) {
      return heads == 0 ? Tensor()
             : d == 0   ? draw.uniform({2, tokens, heads}, low, 0)
                        : draw.uniform({2, tokens, heads, d}, low, 0);
    };
    cases.add(fmt::format("{}, {}", name, enum_name(span)),
              {.x = draw.normal({2, tokens, n.x, 5}),
               .y = draw.normal({2, tokens, n.y, 6}),
               .g = decays(n.g, 0),
               .gk = decays(n.gk, 5),
               .gv = decays(n.gv, 6)},
              {.span = span, .scale = 0.5, .heads = n.s, .totals = totals});
  };
  for (const DecaySpan span : {DecaySpan::kBehind, DecaySpan::kUpTo, DecaySpan::kBefore}) {
    add("no decay", 7, {.x = 3, .y = 3, .s = 3}, span);
    add("by head", 7, {.x = 3, .y = 3, .s = 3, .g = 3}, span);
    add("by channel", 7, {.x = 3, .y = 3, .s = 3, .gk = 3}, span);
    add("of values", 7, {.x = 2, .y = 2, .s = 2, .gv = 2}, span);
    add("all, shared keys", 11, {.x = 2, .y = 4, .s = 4, .g = 4, .gk = 2, .gv = 1}, span);
    add("all, and totals", 11, {.x = 2, .y = 4, .s = 4, .g = 4, .gk = 2, .gv = 1}, span, -1, true);
    add("by head, and totals", 7, {.x = 3, .y = 3, .s = 3, .g = 3}, span, -1, true);
    add("no decay, and totals", 7, {.x = 3, .y = 3, .s = 3}, span, -1, true);
    add("no token, and totals", 0, {.x = 2, .y = 2, .s = 2, .gk = 2}, span, -1, true);
    add("many queries of a state", 11, {.x = 4, .y = 4, .s = 2, .g = 2, .gk = 2}, span);
    add("shared queries", 11, {.x = 1, .y = 4, .s = 2, .g = 2}, span);
    add("one token", 1, {.x = 2, .y = 2, .s = 2, .g = 2, .gk = 2}, span);
    add("no token", 0, {.x = 2, .y = 2, .s = 2, .g = 2, .gk = 2}, span);
    add("far out", 9, {.x = 2, .y = 2, .s = 2, .g = 2, .gk = 2}, span, -200);
    add("blocks", 300, {.x = 2, .y = 2, .s = 1, .gk = 1}, span, -0.02);
    add("sums of blocks", 2200, {.x = 1, .y = 1, .s = 1, .g = 1}, span, -0.002);
  }
}

}  // namespace
}  // namespace ls::test
