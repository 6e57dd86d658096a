// The delta rule with no gate, a gate by head or by key channel; diagonal plus low rank.
#include "autograd/functional.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/mul/mul.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

using In = ops::DeltaRule::In<ag::Var>;

/// Inputs with these names in the file, and the states.
In inputs(GoldenCall& c, const char* query) {
  return {.q = c.in(query),
          .k = c.in("k"),
          .v = c.in("v"),
          .s0 = c.acc_or_none("initial_state"),
          .offsets = c.in_or_none("offsets")};
}
ops::DeltaRule::Out<ag::Var> scan(GoldenCall& c, const In& in) {
  ops::DeltaRule::Attrs attrs;
  attrs.scale = c.number("scale", 1);
  attrs.qk_l2norm = c.flag("qk_l2norm");
  c.ignore({"final", "neg_eigval"});
  return c.scan<ops::DeltaRule>(in, attrs);
}
void run(GoldenCall& c, const In& in) {
  const auto [o, state] = scan(c, in);
  c.out("o", o);
  c.out("final_state", state);
}

/// A beta [B,T,HV,Dv] of each value channel: the columns of a state know nothing of one another, so
/// each is a value head.
void by_value_channel(GoldenCall& c, In in, const ag::Var& beta) {
  const Index b = in.v.size(0), t = in.v.size(1), heads = in.v.size(2), dv = in.v.size(3),
              dk = in.k.size(3);
  in.v = ag::reshape(in.v, {b, t, heads * dv, 1});
  in.beta = ag::reshape(beta, {b, t, heads * dv});
  if (in.s0.defined()) {
    in.s0 = ag::reshape(ag::transpose(in.s0, 2, 3), {in.s0.size(0), heads * dv, dk, 1});
  }
  const auto [o, state] = scan(c, in);
  c.out("o", ag::reshape(o, {b, t, heads, dv}));
  c.out("final_state", ag::transpose(ag::reshape(state, {state.size(0), heads, dv, dk}), 2, 3));
}

LS_GOLDEN(Deltanet, "deltanet") {
  In in = inputs(c, "q");
  const ag::Var beta = c.in("beta");
  if (beta.rank() == 4) {
    by_value_channel(c, in, beta);
    return;
  }
  in.beta = beta;
  run(c, in);
}
LS_GOLDEN(GatedDeltanet, "gated_deltanet") {
  In in = inputs(c, "q");
  in.beta = c.in("beta");
  in.g = c.acc("g");
  run(c, in);
}
LS_GOLDEN(Kda, "kda") {
  In in = inputs(c, "q");
  in.beta = c.in("beta");
  in.gk = c.acc("g");
  run(c, in);
}
LS_GOLDEN(Dplr, "dplr") {
  In in = inputs(c, "q");
  in.a = c.in("a");
  in.b = c.in("b");
  in.gk = c.acc("g");
  run(c, in);
}
/// kappa is what is erased, kappa * a what it is replaced by.
LS_GOLDEN(Rwkv7, "rwkv7") {
  In in = inputs(c, "r");
  const ag::Var kappa = c.in("kappa");
  in.a = ag::scale(kappa, -1);
  in.b = ag::call<ops::Mul>({.a = kappa, .b = c.in("a")}).y;
  in.gk = c.acc("g");
  run(c, in);
}

}  // namespace
}  // namespace ls::golden
