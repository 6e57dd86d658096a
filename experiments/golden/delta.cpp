// The delta rule with no gate, a gate by head or by key channel; diagonal plus low rank.
#include "autograd/functional.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/mul/mul.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

using In = ops::DeltaRule::In<ag::Var>;

ops::DeltaRule::Attrs attrs(GoldenCall& c) {
  ops::DeltaRule::Attrs a;
  a.scale = c.number("scale", 1);
  a.qk_l2norm = c.flag("qk_l2norm");
  c.ignore({"final", "neg_eigval"});
  return a;
}
void run(GoldenCall& c, const In& in) {
  c.run_scan<ops::DeltaRule>(in, attrs(c));
}
void run(GoldenCall& c, const GoldenCall::Names& names) {
  run(c, c.inputs<ops::DeltaRule>(names));
}

/// A beta [B,T,HV,Dv] of each value channel: the columns of a state know nothing of one another, so
/// each is a value head.
void by_value_channel(GoldenCall& c, In in) {
  const ag::Var beta = in.beta;
  const Index b = in.v.size(0), t = in.v.size(1), heads = in.v.size(2), dv = in.v.size(3),
              dk = in.k.size(3);
  in.v = ag::reshape(in.v, {b, t, heads * dv, 1});
  in.beta = ag::reshape(beta, {b, t, heads * dv});
  if (in.s0.defined()) {
    in.s0 = ag::reshape(ag::transpose(in.s0, 2, 3), {in.s0.size(0), heads * dv, dk, 1});
  }
  const auto [o, state] = c.scan<ops::DeltaRule>(in, attrs(c));
  c.out("o", ag::reshape(o, {b, t, heads, dv}));
  c.out("final_state", ag::transpose(ag::reshape(state, {state.size(0), heads, dv, dk}), 2, 3));
}

LS_GOLDEN(Deltanet, "deltanet") {
  const In in = c.inputs<ops::DeltaRule>();
  in.beta.rank() == 4 ? by_value_channel(c, in) : run(c, in);
}
LS_GOLDEN(GatedDeltanet, "gated_deltanet") {
  run(c, GoldenCall::Names{});
}
LS_GOLDEN(Kda, "kda") {
  run(c, {{"gk", "g"}});
}
LS_GOLDEN(Dplr, "dplr") {
  run(c, {{"gk", "g"}});
}
/// kappa is what is erased, kappa * a what it is replaced by.
LS_GOLDEN(Rwkv7, "rwkv7") {
  In in = c.inputs<ops::DeltaRule>({{"q", "r"}, {"gk", "g"}, {"b", "a"}});
  const ag::Var kappa = c.in("kappa");
  in.a = ag::scale(kappa, -1);
  in.b = ag::call<ops::Mul>({.a = kappa, .b = in.b}).y;
  run(c, in);
}

}  // namespace
}  // namespace ls::golden
