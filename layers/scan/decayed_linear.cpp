// The decays of a stretch are the exponentials of their sums: [B,H,1], [B,H,Dk] or [B,H,Dk,Dv], as
// fine as they are.
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/activation/activation.h"
#include "core/ops/reduce/reduce.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::DecayedLinear;

/// Sums over the tokens, in f64.
Tensor total(const Tensor& x) {
  return call_op<ops::Reduce>({.x = x}, {.axes = {1}}).y;
}

Tensors decays(const Op::In<Tensor>& in, const Op::Attrs&) {
  const Index b = in.v.size(0), tokens = in.v.size(1), h = in.v.size(2);
  Tensor log = in.gk.defined() ? total(in.gk)
                               : Tensor::zeros({b, h, 1}, acc_dtype(in.v.dtype()), in.v.device());
  if (in.g.defined()) {
    log.add_(total(in.g).unsqueeze(2).expand(log.shape()));
  }
  if (in.decay.defined()) {
    log.add_(in.decay.unsqueeze(0).unsqueeze(2).expand(log.shape()), static_cast<double>(tokens));
  }
  if (in.gv.defined()) {
    const Shape full{b, h, in.k.size(3), in.v.size(3)};
    log = log.unsqueeze(3).expand(full).clone();
    log.add_(total(in.gv).unsqueeze(2).expand(full));
  }
  return {call_op<ops::Activation>({.x = log}, {.activation = ops::Act::kExp}).y};
}

LS_SCAN(Op, "decayed_linear",
        "S = diag(exp(g + gk)) S diag(exp(gv)) + k v^T; no, constant or any of these decays")
    .family("decayed_linear", FamilyKind::kFixed)
    .state("S", "s0", "sT", StatePart::kMatrix)
    .chunked()
    .parallel()
    .transition(transitions::kElementwise, decays);

}  // namespace
}  // namespace ls::layers
