#include "core/ops/mamba_gate/mamba_gate.h"

#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/mul/mul.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

/// x [H] as [H*K], every element K times.
ag::Var each(const ag::Var& x, Index k) {
  std::vector<Index> rows;
  for (Index i = 0; i < x.size(0) * k; ++i) {
    rows.push_back(i / k);
  }
  return ag::reshape(ag::take_rows(ag::reshape(x, {-1, 1}), rows), {-1});
}
/// x, of any shape, once for each row of `like` [rows,n].
ag::Var on_rows(const ag::Var& x, const ag::Var& like) {
  const auto rows = static_cast<std::size_t>(like.size(0));
  return ag::take_rows(ag::reshape(x, {1, -1}), std::vector<Index>(rows, 0));
}
ag::Var activate(const ag::Var& x, ops::Act act) {
  return ag::call<ops::Activation>({.x = x}, {.activation = act}).y;
}

/// lower_bound * sigmoid(exp(a_log) (x + bias)) from the elementwise ops.
ag::Var bounded(const ag::Var& x, const ag::Var& a_log, const ag::Var& bias, double lower_bound) {
  ag::Var z = bias.defined() ? ag::add(x, on_rows(bias, x)) : x;
  if (a_log.defined()) {
    z = ag::call<ops::Mul>({.a = z, .b = on_rows(activate(a_log, ops::Act::kExp), x)}).y;
  }
  return ag::scale(activate(z, ops::Act::kSigmoid), lower_bound);
}

LS_GOLDEN(MambaGate, "mamba_gate") {
  enum { kScalar, kVector, kBounded };
  const int kind = c.choice("kind", {"scalar", "vector", "bounded"});
  const double lower_bound = c.number("lower_bound");
  const ag::Var x = c.in("x"), bias = c.acc_or_none("dt_bias");
  ag::Var a_log = c.acc_or_none("A_log");
  if (kind == kScalar) {
    c.out("g", ag::call<ops::MambaGate>({.x = x, .a_log = a_log, .dt_bias = bias}).g);
    return;
  }
  const Index channels = x.size(2) * x.size(3);
  const ag::Var flat = ag::reshape(x, {-1, channels});
  const ag::Var flat_bias = bias.defined() ? ag::reshape(bias, {channels}) : bias;
  if (kind == kVector) {
    c.out("g",
          ag::reshape(ag::call<ops::MambaGate>({.x = flat, .a_log = a_log, .dt_bias = flat_bias}).g,
                      x.shape()));
    return;
  }
  a_log = a_log.defined() ? each(a_log, x.size(3)) : a_log;
  const ag::Var g = bounded(ag::cast(flat, acc_dtype(x.dtype())), a_log, flat_bias, lower_bound);
  c.out("g", ag::reshape(g, x.shape()));
}

}  // namespace
}  // namespace ls::golden
