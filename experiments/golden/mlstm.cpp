// The matrix LSTM with an exponential input gate and with a sigmoid.
#include "core/ops/mlstm/mlstm.h"

#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/mul/mul.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

ag::Var activate(const ag::Var& x, ops::Act act) {
  return ag::call<ops::Activation>({.x = x}, {.activation = act}).y;
}

/// x [N,H,...] times exp(m) by head.
ag::Var unscaled(const ag::Var& x, const ag::Var& m) {
  const Index heads = m.size(0) * m.size(1), each = heads > 0 ? x.value().numel() / heads : 0;
  const ag::Var factors = ag::reshape(activate(m, ops::Act::kExp), {1, heads});
  const ag::Var rows =
      ag::take_rows(factors, std::vector<Index>(static_cast<std::size_t>(each), 0));
  return ag::reshape(
      ag::call<ops::Mul>({.a = ag::reshape(x, {heads, each}), .b = ag::transpose(rows, 0, 1)}).y,
      x.shape());
}

ops::Mlstm::Out<ag::Var> mlstm(GoldenCall& c, const ag::Var& input,
                               const ops::Mlstm::Attrs& given) {
  ops::Mlstm::Attrs attrs = given;
  attrs.scale = c.number("scale", 1);
  attrs.eps = c.number("eps");
  c.ignore({"final"});
  return c.scan<ops::Mlstm>({.q = c.in("q"),
                             .k = c.in("k"),
                             .v = c.in("v"),
                             .i = input,
                             .f = activate(c.acc("f"), ops::Act::kLogSigmoid),
                             .c0 = c.acc_or_none("initial_state"),
                             .n0 = c.acc_or_none("initial_z"),
                             .offsets = c.in_or_none("offsets")},
                            attrs);
}

/// The file has the true states, ours are times exp(-m).
LS_GOLDEN(MlstmExp, "mlstm_exp") {
  const auto out = mlstm(c, c.acc("i"), {});
  c.out("o", out.o);
  c.out("final_state", unscaled(out.cT, out.mT));
  c.out("final_z", unscaled(out.nT, out.mT));
}
LS_GOLDEN(MlstmSig, "mlstm_sig") {
  ops::Mlstm::Attrs attrs;
  attrs.stabilize = false;
  attrs.normalize = c.flag("normalize");
  const auto out = mlstm(c, activate(c.acc("i"), ops::Act::kLogSigmoid), attrs);
  c.out("o", out.o);
  c.out("final_state", out.cT);
  c.out("final_z", out.nT);
}

}  // namespace
}  // namespace ls::golden
