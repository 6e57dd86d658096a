#include "core/ops/delta_rule/delta_rule.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

void delta(GoldenCall& c) {
  ops::DeltaRule::In<ag::Var> in = {.q = c.in("q"),
                                    .k = c.in("k"),
                                    .v = c.in("v"),
                                    .g = c.acc_or_none("g"),
                                    .s0 = c.acc_or_none("initial_state"),
                                    .offsets = c.in_or_none("offsets")};
  const ag::Var beta = c.in("beta");
  (beta.rank() == 4 ? in.beta_v : in.beta) = beta;
  ops::DeltaRule::Attrs attrs;
  attrs.scale = c.number("scale", 1);
  attrs.qk_l2norm = c.flag("qk_l2norm");
  c.ignore({"final", "neg_eigval"});
  const auto [o, state] = c.scan<ops::DeltaRule>(in, attrs);
  c.out("o", o);
  c.out("final_state", state);
}

LS_GOLDEN(Deltanet, "deltanet") {
  delta(c);
}
LS_GOLDEN(GatedDeltanet, "gated_deltanet") {
  delta(c);
}

}  // namespace
}  // namespace ls::golden
