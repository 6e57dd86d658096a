// The decays of a stretch are the exponentials of their sums: [B,H,1], [B,H,Dk] or [B,H,Dk,Dv], as
// fine as they are. Since every decay is at most 1, what tokens leave behind and what they read of
// the state that came in are products of whole sequences, without chunks.
#include "core/ops/decayed_linear/decayed_linear.h"
#include <algorithm>

#include "core/ops/activation/activation.h"
#include "core/ops/cumsum/cumsum.h"
#include "core/ops/matmul/matmul.h"
#include "core/ops/reduce/reduce.h"
#include "core/ops/scale_add/scale_add.h"
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

/// Which tokens count in a sum by token: those behind it, those up to it, those before it.
enum class Span { kBehind, kUpTo, kBefore };

/// exp of sums of log-decays [B,T,H,...], by token; 1 where there is none.
Tensor decay_over(const Tensor& log, Span span) {
  const Index t = log.size(1);
  const auto sums = [&](const Tensor& x) {
    return call_op<ops::Cumsum>({.x = x}, {.axis = 1, .reverse = span == Span::kBehind}).y;
  };
  if (span == Span::kUpTo) {
    return exponential(sums(log));
  }
  Tensor out = Tensor::empty(log.shape(), log.dtype(), log.device());
  if (t > 0) {  // those of the neighbour, which are no difference of infinite ones
    const Index at = span == Span::kBehind ? 0 : 1, others = 1 - at, end = at == 0 ? t - 1 : 0;
    out.slice(1, at, at + t - 1).copy_(exponential(sums(log.slice(1, others, others + t - 1))));
    out.slice(1, end, end + 1).fill_(1);
  }
  return out;
}
/// The same of g and decay, [B,T,H]; undefined without them.
Tensor head_decay_over(const Op::In<Tensor>& in, Span span) {
  if (!in.decay.defined()) {
    return in.g.defined() ? decay_over(in.g, span) : Tensor();
  }
  const Shape shape{in.v.size(0), in.v.size(1), in.v.size(2)};
  return decay_over(in.decay.unsqueeze(0).unsqueeze(0).expand(shape).clone(), span);
}

/// x [B,T,H,D] times a factor [B,T,H,...] of its leading axes; itself where that is undefined.
Tensor times(const Tensor& x, const Tensor& factor) {
  if (!factor.defined() || x.numel() == 0) {
    return x;
  }
  const Index rows = x.size(0) * x.size(1);
  const Tensor y = call_op<ops::ScaleAdd>({.x = x.reshape({rows, x.numel() / rows}),
                                           .factor = factor.reshape({rows, factor.numel() / rows})})
                       .y;
  return y.reshape(x.shape());
}
/// x [B,T,N,D] for `heads` heads, of which neighbours share one.
Tensor for_heads(const Tensor& x, Index heads) {
  const Index b = x.size(0), t = x.size(1), n = x.size(2), d = x.size(3);
  return n == heads ? x : x.unsqueeze(3).expand({b, t, n, heads / n, d}).reshape({b, t, heads, d});
}
Tensor by_head(const Tensor& x) {
  return x.permute({0, 2, 1, 3});
}

/// Keys and values, each decayed by what comes behind it, in one product.
Tensors written(const Op::In<Tensor>& in, const Op::Attrs&) {
  const DType acc = acc_dtype(in.v.dtype());
  Tensor k = for_heads(in.k.to(acc), in.v.size(2));
  Tensor v = times(in.v.to(acc), head_decay_over(in, Span::kBehind));
  k = in.gk.defined() ? times(k, decay_over(in.gk, Span::kBehind)) : k;
  v = in.gv.defined() ? times(v, decay_over(in.gv, Span::kBehind)) : v;
  return {call_op<ops::Matmul>({.a = by_head(k), .b = by_head(v)}, {.trans_a = true}).c};
}

/// Queries, decayed by what came up to them; before them where they read before the write.
Tensor reads(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
  if (in.gv.defined()) {
    return {};  // decays of value columns stand behind the state
  }
  const Span span = in.u.defined() ? Span::kBefore : Span::kUpTo;
  const Index heads = in.v.size(2), all = std::max(heads, in.q.size(2));
  const auto of_outputs = [&](const Tensor& x) {  // [B,T,H,...] for the outputs of each head
    const Index d = x.rank() > 3 ? x.size(3) : 1;
    return for_heads(x.reshape({x.size(0), x.size(1), heads, d}), all);
  };
  Tensor q = for_heads(in.q.to(acc_dtype(in.q.dtype())), all);
  Tensor head = head_decay_over(in, span);
  if (!head.defined() && attrs.scale != 1) {
    head = Tensor::full({in.v.size(0), in.v.size(1), heads}, q.dtype(), 1, q.device());
  }
  if (head.defined()) {
    q = times(q, of_outputs(head.mul_(attrs.scale)));
  }
  return in.gk.defined() ? times(q, of_outputs(decay_over(in.gk, span))) : q;
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
