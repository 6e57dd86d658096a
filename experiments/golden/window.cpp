// The last W-1 inputs: short convolution, token shift.
#include "autograd/functional.h"
#include "core/ops/mul/mul.h"
#include "core/ops/short_conv/short_conv.h"
#include "core/ops/token_shift/token_shift.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(ShortConv, "short_conv") {
  ops::ShortConv::Attrs attrs;
  attrs.silu = c.choice("activation", {"", "silu"}) == 1;
  c.ignore({"final", "width"});
  const auto [y, state] = c.scan<ops::ShortConv>({.x = c.in("x"),
                                                  .weight = c.acc("weight"),
                                                  .bias = c.acc_or_none("bias"),
                                                  .s0 = c.acc_or_none("initial_state"),
                                                  .offsets = c.in_or_none("offsets")},
                                                 attrs);
  c.out("y", y);
  c.out("final_state", state);
}

LS_GOLDEN(TokenShift, "token_shift") {
  c.ignore({"final"});
  const ag::Var x = c.in("x");
  const Index batch = x.size(0), tokens = x.size(1), width = x.size(2);
  const auto [delta, state] = c.scan<ops::TokenShift>(
      {.x = x, .s0 = c.acc_or_none("initial_state"), .offsets = c.in_or_none("offsets")}, {});
  c.out("delta", delta);
  c.out("final_state", state);
  if (c.has("mu")) {
    const ag::Var mu = c.in("mu");
    std::vector<ag::Var> mixes;
    for (Index j = 0; j < mu.size(0); ++j) {
      const std::vector<Index> repeat(static_cast<std::size_t>(batch * tokens), j);
      const ag::Var share = ag::reshape(ag::take_rows(mu, repeat), x.shape());
      const ag::Var mixed = ag::add(x, ag::call<ops::Mul>({.a = delta, .b = share}).y);
      mixes.push_back(ag::reshape(mixed, {batch, tokens, 1, width}));
    }
    c.out("y", ag::concat(mixes, 2));
  }
}

}  // namespace
}  // namespace ls::golden
