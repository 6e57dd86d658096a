// Elementwise gated recurrences: of given decays, and of the gates of minGRU and minLSTM.
#include "core/ops/gated_scan/gated_scan.h"

#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/mul/mul.h"
#include "core/ops/sigmoid_gate/sigmoid_gate.h"
#include "experiments/golden/golden.h"
#include "layers/mixers/gates.h"

namespace ls::golden {
namespace {

ops::GatedScan::Out<ag::Var> scan(GoldenCall& c, const ag::Var& u, const ag::Var& g) {
  c.ignore({"final"});
  const auto out = c.scan<ops::GatedScan>(
      {.u = u, .g = g, .h0 = c.acc_or_none("initial_state"), .offsets = c.in_or_none("offsets")},
      {});
  c.out("final_state", out.hT);
  return out;
}

LS_GOLDEN(Hgrn, "hgrn") {
  c.out("o", scan(c, c.in("x"), c.acc("g")).y);
}

/// sigmoid(keep) is what a token keeps; the candidate is written with the rest.
void averaged(GoldenCall& c, const ag::Var& keep) {
  const auto gate = ag::call<ops::SigmoidGate>({.x = keep});
  const ag::Var n = layers::positive_candidate(c.in("hidden"));
  c.out("h", scan(c, ag::call<ops::Mul>({.a = gate.k, .b = n}).y, gate.g).y);
}
LS_GOLDEN(MinGru, "mingru") {
  averaged(c, ag::scale(c.in("z"), -1));
}
/// f / (f + i) of two sigmoids is the sigmoid of softplus(-i) - softplus(-f).
LS_GOLDEN(MinLstm, "minlstm") {
  const auto softplus = [&](const char* name) {
    return ag::call<ops::Activation>({.x = ag::scale(c.in(name), -1)},
                                     {.activation = ops::Act::kSoftplus})
        .y;
  };
  averaged(c, ag::add(softplus("i"), ag::scale(softplus("f"), -1)));
}

}  // namespace
}  // namespace ls::golden
