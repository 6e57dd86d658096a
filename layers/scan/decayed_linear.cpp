// The decays of a stretch are the exponentials of their sums: [B,H,1], [B,H,Dk] or [B,H,Dk,Dv], as
// fine as they are. Since every decay is at most 1, what tokens leave behind and what they read of
// the state that came in are products of whole sequences, without chunks.
#include "core/ops/decayed_linear/decayed_linear.h"
#include <algorithm>

#include "core/ops/activation/activation.h"
#include "core/ops/matmul/matmul.h"
#include "core/ops/reduce/reduce.h"
#include "core/ops/row_decay/row_decay.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::DecayedLinear;

/// Sums over the tokens, in f64.
Tensor total(const Tensor& x) {
  return call_op<ops::Reduce>({.x = x}, {.axes = {1}}).y;
}

Tensor exponential(const Tensor& x) {
  return call_op<ops::Activation>({.x = x}, {.activation = ops::Act::kExp}).y;
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
  return {exponential(log)};
}

/// Log-decays by head, [B,T,H]; undefined without.
Tensor head_decays(const Op::In<Tensor>& in) {
  if (!in.decay.defined()) {
    return in.g;
  }
  const Shape shape{in.v.size(0), in.v.size(1), in.v.size(2)};
  Tensor log = in.decay.unsqueeze(0).unsqueeze(0).expand(shape).clone();
  return in.g.defined() ? log.add_(in.g) : log;
}
/// x [B,T,N,D] for `heads` heads, of which neighbours share one.
Tensor for_heads(const Tensor& x, Index heads) {
  const Index b = x.size(0), t = x.size(1), n = x.size(2), d = x.size(3);
  return n == heads ? x : x.unsqueeze(3).expand({b, t, n, heads / n, d}).reshape({b, t, heads, d});
}
/// Tokens times `scale` and what decays leave of them, for at least `heads` heads.
Tensor decayed(const Tensor& x, const Tensor& g, const Tensor& gk, ops::DecaySpan span,
               double scale, Index heads) {
  const bool as_it_is = !g.defined() && !gk.defined() && scale == 1;
  const Tensor y =
      as_it_is
          ? x.to(acc_dtype(x.dtype()))
          : call_op<ops::RowDecay>({.x = x, .g = g, .gk = gk}, {.span = span, .scale = scale}).y;
  return for_heads(y, std::max(heads, y.size(2)));
}
Tensor by_head(const Tensor& x) {
  return x.permute({0, 2, 1, 3});
}

/// Keys and values, each decayed by what comes behind it, in one product.
Tensors written(const Op::In<Tensor>& in, const Op::Attrs&) {
  constexpr auto kBehind = ops::DecaySpan::kBehind;
  const Index heads = in.v.size(2);
  const Tensor k = decayed(in.k, head_decays(in), in.gk, kBehind, 1, heads);
  const Tensor v = decayed(in.v, {}, in.gv, kBehind, 1, heads);
  return {call_op<ops::Matmul>({.a = by_head(k), .b = by_head(v)}, {.trans_a = true}).c};
}

/// Queries, decayed by what came up to them; before them where they read before the write.
Tensor reads(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
  if (in.gv.defined()) {
    return {};  // decays of value columns stand behind the state
  }
  const ops::DecaySpan span = in.u.defined() ? ops::DecaySpan::kBefore : ops::DecaySpan::kUpTo;
  return decayed(in.q, head_decays(in), in.gk, span, attrs.scale, in.v.size(2));
}

LS_SCAN(Op, "decayed_linear",
        "S = diag(exp(g + gk)) S diag(exp(gv)) + k v^T; no, constant or any of these decays")
    .family("decayed_linear", FamilyKind::kFixed)
    .state("S", "s0", "sT", StatePart::kMatrix)
    .chunked()
    .parallel()
    .heads({"H", "HQ", "HK", "HU", "HO"})
    .columns({"Dv"})
    .transition(transitions::kElementwise, decays)
    .writes(written)
    .reads("o", reads);

}  // namespace
}  // namespace ls::layers
