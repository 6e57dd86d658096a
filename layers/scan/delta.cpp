// Summary of a stretch: (M, X); S' = M S + X, the decay being part of M. X is [B,HV,Dk,Dv] and M
// [B,HV,Dk,Dk].
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/matmul/matmul.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::DeltaRule;

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a = false) {
  return call_op<ops::Matmul>({.a = a, .b = b}, {.trans_a = transpose_a}).c;
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

/// What the recurrence makes of the unit matrix when nothing is written.
Tensor transition(Op::In<Tensor> in, const Op::Attrs& attrs) {
  const Index b = in.v.size(0), t = in.v.size(1), heads = in.v.size(2), dk = in.k.size(3);
  in.v = Tensor::zeros({b, t, heads, dk}, in.v.dtype());
  in.s0 = unit(b, heads, dk, acc_dtype(in.k.dtype()));
  return call_op<Op>(in, attrs).sT;
}

/// S' = M S + X.
struct Affine {
  static Tensors summarize(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
    return {transition(in, attrs), call_op<Op>(in, attrs).sT};
  }
  static Tensors identity(const Op::In<Tensor>& like, const Op::Attrs&) {
    const DType t = acc_dtype(like.k.dtype());
    const Index b = like.v.size(0), hv = like.v.size(2), dk = like.k.size(3), dv = like.v.size(3);
    return {unit(b, hv, dk, t), Tensor::zeros({b, hv, dk, dv}, t)};
  }
  static Tensors compose(const Tensors& a, const Tensors& b) {
    return {product(b[0], a[0]), sum(product(b[0], a[1]), b[1])};
  }
  static Tensors act(const Tensors& m, const Tensors& s) {
    return {sum(product(m[0], s[0]), m[1])};
  }
  static Tensors act_adjoint(const Tensors& m, const Tensors& ds) {
    return {product(m[0], ds[0], true)};
  }
  static Tensors forget(const Op::In<Tensor>& like, const Tensors& fresh, const Op::Attrs& attrs) {
    Tensors m = identity(like, attrs);
    return {m[0].zero_(), fresh_state(fresh[0], m[1].shape(), m[1].dtype())};
  }
};

LS_SCAN(Op, "delta_rule",
        "S = D S + beta k (v - k D S), or D S + b (a S) + k v; D = exp(g) diag(exp(gk))")
    .family("delta", FamilyKind::kFixed)
    .state("S", "s0", "sT", StatePart::kMatrix)
    .chunked()
    .parallel()
    .summary<Affine>();

}  // namespace
}  // namespace ls::layers
