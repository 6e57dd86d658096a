#include "core/ops/gated_scan/gated_scan.h"
#include "core/ops/activation/activation.h"
#include "core/ops/reduce/reduce.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::GatedScan;

/// exp of the sum over the tokens, [B,D].
Tensors decays(const Op::In<Tensor>& in, const Op::Attrs&) {
  const Tensor log = call_op<ops::Reduce>({.x = in.g}, {.axes = {1}}).y;
  return {call_op<ops::Activation>({.x = log}, {.activation = ops::Act::kExp}).y};
}

LS_SCAN(Op, "gated_scan", "h = exp(g) h + u, channel by channel")
    .family("gated_scan", FamilyKind::kFixed)
    .state("h", "h0", "hT", StatePart::kVector)
    .heads({"D"})
    .transition(transitions::kElementwise, decays);

}  // namespace
}  // namespace ls::layers
