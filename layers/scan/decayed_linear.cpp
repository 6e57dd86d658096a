// What decays leave of a state is [B,H,1], [B,H,Dk] or [B,H,Dk,Dv], as fine as they are. Since
// every decay is at most 1, what tokens leave behind and what they read of the state that came in
// are products of whole sequences, without chunks.
#include "core/ops/decayed_linear/decayed_linear.h"

#include "core/ops/decayed_sum/decayed_sum.h"
#include "core/ops/matmul/matmul.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::DecayedLinear;

/// Log-decays by head, [B,T,H]; undefined without.
Tensor head_decays(const Op::In<Tensor>& in) {
  if (!in.decay.defined()) {
    return in.g;
  }
  const Shape shape{in.v.size(0), in.v.size(1), in.v.size(2)};
  Tensor log = in.decay.unsqueeze(0).unsqueeze(0).expand(shape).clone();
  return in.g.defined() ? log.add_(in.g) : log;
}

/// Keys and values, each decayed by what comes behind it, and what all decays leave.
Tensors summary(const Op::In<Tensor>& in, const Op::Attrs&) {
  const auto sum = call_op<ops::DecayedSum>(
      {.x = in.k, .y = in.v, .g = head_decays(in), .gk = in.gk, .gv = in.gv},
      {.span = ops::DecaySpan::kBehind, .heads = in.v.size(2), .totals = true});
  if (!sum.left_y.defined()) {
    return {sum.s, sum.left};
  }
  const Shape keys{sum.s.size(0), sum.s.size(1), sum.s.size(2), 1};
  return {sum.s, call_op<ops::Matmul>({.a = sum.left.unsqueeze(3).expand(keys).clone(),
                                       .b = sum.left_y.unsqueeze(2)})
                     .c};
}

/// Queries read states decayed by what came up to them; before them where they read before the
/// write.
Tensor read_adjoint(const Op::In<Tensor>& in, const Tensor& dout, const Op::Attrs& attrs) {
  if (in.gv.defined()) {
    return {};  // decays of value columns stand behind the state
  }
  const ops::DecaySpan span = in.u.defined() ? ops::DecaySpan::kBefore : ops::DecaySpan::kUpTo;
  return call_op<ops::DecayedSum>(
             {.x = in.q, .y = dout.to(in.q.dtype()), .g = head_decays(in), .gk = in.gk},
             {.span = span, .scale = attrs.scale, .heads = in.v.size(2)})
      .s;
}

LS_SCAN(Op, "decayed_linear",
        "S = diag(exp(g + gk)) S diag(exp(gv)) + k v^T; no, constant or any of these decays")
    .family("decayed_linear", FamilyKind::kFixed)
    .state("S", "s0", "sT", StatePart::kMatrix)
    .chunked()
    .parallel()
    .heads({"H", "HQ", "HK", "HU", "HO"})
    .columns({"Dv"})
    .summary(transitions::kElementwise, summary)
    .read_adjoint("o", read_adjoint);

}  // namespace
}  // namespace ls::layers
