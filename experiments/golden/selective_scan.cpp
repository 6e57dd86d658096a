#include "core/ops/selective_scan/selective_scan.h"

#include "autograd/functional.h"
#include "core/ops/bias_act/bias_act.h"
#include "core/ops/glu/glu.h"
#include "core/ops/scale_add/scale_add.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

/// B or C [B,T,N], [B,T,G,N], or [C,N] for all tokens: by groups of channels.
ag::Var by_group(const ag::Var& v, Index batch, Index tokens) {
  if (v.rank() == 4) {
    return v;
  }
  if (v.rank() == 3) {
    return ag::reshape(v, {batch, tokens, 1, v.size(2)});
  }
  const ag::Var one = ag::reshape(v, {1, v.size(0) * v.size(1)});
  const std::vector<Index> repeat(static_cast<std::size_t>(batch * tokens), 0);
  return ag::reshape(ag::take_rows(one, repeat), {batch, tokens, v.size(0), v.size(1)});
}

LS_GOLDEN(SelectiveScan, "selective_scan") {
  c.ignore({"final"});
  const ag::Var x = c.in("x"), d = c.acc_or_none("D");
  const ops::Act act = c.flag("dt_softplus") ? ops::Act::kSoftplus : ops::Act::kIdentity;
  const auto [o, state] = c.scan<ops::SelectiveScan>(
      {.x = x,
       .dt = ag::call<ops::BiasAct>({.x = c.acc("dt"), .bias = c.acc_or_none("dt_bias")}, {act}).y,
       .a = c.acc("A"),
       .b = by_group(c.in("B"), x.size(0), x.size(1)),
       .c = by_group(c.in("C"), x.size(0), x.size(1)),
       .s0 = c.acc_or_none("initial_state"),
       .offsets = c.in_or_none("offsets")},
      {});
  ag::Var y = o;
  if (d.defined()) {
    y = ag::call<ops::ScaleAdd>({.x = x, .gain = d, .base = y}).y;
  }
  if (c.has("z")) {
    y = ag::call<ops::Glu>({.gate = c.in("z"), .up = y}).y;
  }
  c.out("y", y);
  c.out("final_state", state);
}

}  // namespace
}  // namespace ls::golden
