#include "core/ops/mamba_gate/mamba_gate.h"

#include "autograd/functional.h"
#include "experiments/golden/golden.h"

namespace ls::golden {
namespace {

LS_GOLDEN(MambaGate, "mamba_gate") {
  enum { kScalar, kVector, kBounded };
  const int kind = c.choice("kind", {"scalar", "vector", "bounded"});
  const double lower_bound = c.number("lower_bound");
  const ag::Var x = c.in("x"), bias = c.acc_or_none("dt_bias");
  const bool by_head = kind == kScalar;
  const Index heads = x.size(2), channels = by_head ? heads : heads * x.size(3);
  ag::Var a_log = c.acc_or_none("A_log");
  if (!a_log.defined()) {
    a_log = ag::Var(Tensor::zeros({heads}, acc_dtype(x.dtype()), x.value().device()));
  }
  const ag::Var g =
      ag::call<ops::MambaGate>({.x = ag::reshape(x, {x.size(0), x.size(1), channels}),
                                .a_log = a_log,
                                .dt_bias = bias.defined() ? ag::reshape(bias, {channels}) : bias},
                               {.lower_bound = kind == kBounded ? lower_bound : 0})
          .g;
  c.out("g", ag::reshape(g, x.shape()));
}

}  // namespace
}  // namespace ls::golden
