// The last inputs: of a short convolution W-1, of a token shift one.
#include "core/ops/short_conv/short_conv.h"
#include "core/ops/token_shift/token_shift.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::ShortConv;

Index past(const Op::In<Tensor>& in, const Op::Attrs&) {
  return in.weight.size(1) - 1;
}

/// The stretch's last inputs behind zeros.
Tensors newest(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
  const Index tokens = in.x.size(1), w = past(in, attrs), n = std::min(tokens, w);
  Tensor out =
      Tensor::zeros({in.x.size(0), in.x.size(2), w}, acc_dtype(in.x.dtype()), in.x.device());
  out.slice(2, w - n, w).copy_(in.x.slice(1, tokens - n, tokens).transpose(1, 2));
  return {out};
}
Tensors moved(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
  return {transitions::shift_by(in.x.size(0), past(in, attrs), in.x.size(1),
                                acc_dtype(in.x.dtype()), in.x.device())};
}

LS_SCAN(Op, "short_conv", "the last W-1 inputs of a depthwise convolution")
    .family("window", FamilyKind::kFixed)
    .state("x", "s0", "sT", StatePart::kConv)
    .heads({"D"})
    .reach(past)
    .transition(transitions::kShift, moved)
    .writes(newest);

LS_SCAN(ops::TokenShift, "token_shift", "the last token, for mixing neighbours")
    .family("window", FamilyKind::kFixed)
    .state("x", "s0", "sT", StatePart::kConv)
    .heads({"D"})
    .reach([](const ops::TokenShift::In<Tensor>&, const ops::TokenShift::Attrs&) -> Index {
      return 1;
    })
    .linear("x", transitions::kElementwise);

}  // namespace
}  // namespace ls::layers
