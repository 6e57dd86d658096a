// Summary of a stretch: (M, X); S' = M S + X, the decay being part of M. X is [B,HV,Dk,Dv]; M is
// [B,HV,Dk,Dk], or with one beta per value channel [B,HV,Dv,Dk,Dk]: each column of S has its own.
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/matmul/matmul.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::DeltaRule;

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a = false) {
  return call_op<ops::Matmul>({.a = a, .b = b}, {.trans_a = transpose_a}).c;
}

/// M S, or with `transpose` M^T S.
Tensor times(const Tensor& m, const Tensor& s, bool transpose = false) {
  if (m.rank() == 4) {
    return product(m, s, transpose);
  }
  const Tensor columns = s.transpose(2, 3).contiguous().unsqueeze(4);  // [B,HV,Dv,Dk,1]
  return product(m, columns, transpose).squeeze(4).transpose(2, 3).contiguous();
}

Tensor sum(Tensor a, const Tensor& b) {
  a.add_(b);
  return a;
}

/// Unit matrices [B,heads,n,n].
Tensor unit(Index batch, Index heads, Index n, DType t) {
  Tensor eye = Tensor::zeros({n, n}, t);
  for (Index i = 0; i < n; ++i) {
    eye.select(0, i).slice(0, i, i + 1).fill_(1);
  }
  return eye.unsqueeze(0).unsqueeze(0).expand({batch, heads, n, n}).clone();
}

/// [B,T,HV] -> [B,T,HV*n], each head n times.
Tensor repeat_heads(const Tensor& x, Index n) {
  return x.unsqueeze(3)
      .expand({x.size(0), x.size(1), x.size(2), n})
      .reshape({x.size(0), x.size(1), x.size(2) * n});
}

/// What the recurrence makes of the unit matrix when nothing is written.
Tensor transition(Op::In<Tensor> in, const Op::Attrs& attrs) {
  const Index b = in.v.size(0), t = in.v.size(1), dk = in.k.size(3), dv = in.v.size(3);
  Index heads = in.v.size(2);
  const bool per_channel = in.beta_v.defined();
  if (per_channel) {  // a head for each value channel
    in.beta = in.beta_v.reshape({b, t, heads * dv});
    in.g = in.g.defined() ? repeat_heads(in.g, dv) : in.g;
    in.beta_v = Tensor();
    heads *= dv;
  }
  in.v = Tensor::zeros({b, t, heads, dk}, in.v.dtype());
  in.s0 = unit(b, heads, dk, acc_dtype(in.k.dtype()));
  const Tensor m = call_op<Op>(in, attrs).sT;
  return per_channel ? m.view({b, heads / dv, dv, dk, dk}) : m;
}

/// S' = M S + X.
struct Affine {
  static Tensors summarize(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
    return {transition(in, attrs), call_op<Op>(in, attrs).sT};
  }
  static Tensors identity(const Op::In<Tensor>& like, const Op::Attrs&) {
    const DType t = acc_dtype(like.k.dtype());
    const Index b = like.v.size(0), hv = like.v.size(2), dk = like.k.size(3), dv = like.v.size(3);
    const Tensor m = like.beta_v.defined() ? unit(b, hv * dv, dk, t).view({b, hv, dv, dk, dk})
                                           : unit(b, hv, dk, t);
    return {m, Tensor::zeros({b, hv, dk, dv}, t)};
  }
  static Tensors compose(const Tensors& a, const Tensors& b) {
    return {product(b[0], a[0]), sum(times(b[0], a[1]), b[1])};
  }
  static Tensors act(const Tensors& m, const Tensors& s) { return {sum(times(m[0], s[0]), m[1])}; }
  static Tensors act_adjoint(const Tensors& m, const Tensors& ds) {
    return {times(m[0], ds[0], true)};
  }
};

LS_SCAN(Op, "delta_rule", "S = exp(g) (I - beta k k^T) S + beta k v^T")
    .family("delta", FamilyKind::kFixed)
    .state("S", "s0", "sT", StatePart::kMatrix)
    .chunked()
    .parallel()
    .summary<Affine>();

}  // namespace
}  // namespace ls::layers
