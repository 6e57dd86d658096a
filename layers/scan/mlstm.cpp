// With a running maximum the states are those kept times exp(-m); without one they decay by head.
#include "core/ops/mlstm/mlstm.h"

#include "core/ops/activation/activation.h"
#include "core/ops/reduce/reduce.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::Mlstm;

/// Sums of the logs of forget gates, [B,H].
Tensors log_decay(const Op::In<Tensor>& in, const Op::Attrs&) {
  return {call_op<ops::Reduce>({.x = in.f}, {.axes = {1}}).y};
}
Tensors decay(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
  const Tensor log = log_decay(in, attrs)[0];
  return {call_op<ops::Activation>({.x = log}, {.activation = ops::Act::kExp}).y};
}

LS_SCAN(Op, "mlstm", "C = exp(f) C + exp(i) k v^T, n alike, both times exp(-m); m = max(f + m, i)")
    .family("mlstm", FamilyKind::kFixed)
    .applies([](const Op::Attrs& a) { return a.stabilize; })
    .state("C", "c0", "cT", StatePart::kMatrix)
    .state("n", "n0", "nT", StatePart::kVector)
    .state("m", "m0", "mT", StatePart::kVector)
    .chunked()
    .parallel()
    .heads({"H"})
    .columns({"Dv"})
    .transition(transitions::kRunningMax, log_decay)
    .nothing([](Op::In<Tensor>& in) {
      in.m0 = Tensor::full({in.v.size(0), in.v.size(2)}, in.f.dtype(), transitions::kNothing,
                           in.f.device());
    });

LS_SCAN(Op, "mlstm_sigmoid", "C = exp(f) C + exp(i) k v^T, n alike; i <= 0")
    .family("mlstm", FamilyKind::kFixed)
    .applies([](const Op::Attrs& a) { return !a.stabilize; })
    .state("C", "c0", "cT", StatePart::kMatrix)
    .state("n", "n0", "nT", StatePart::kVector)
    .chunked()
    .parallel()
    .heads({"H"})
    .columns({"Dv"})
    .transition(transitions::kElementwise, decay);

}  // namespace
}  // namespace ls::layers
