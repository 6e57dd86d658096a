// Summary of a stretch: (M [B,HV,Dk,Dk], X [B,HV,Dk,Dv]); S' = M S + X, the decay being part of M.
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/matmul/matmul.h"
#include "layers/scan/family.h"

namespace ls::layers {
namespace {

using Op = ls::DeltaRule;

Tensor product(const Tensor& a, const Tensor& b, bool transpose_a = false) {
  return call_op<Matmul>({.a = a, .b = b}, {.trans_a = transpose_a}).c;
}

Tensor sum(Tensor a, const Tensor& b) {
  a.add_(b);
  return a;
}

Op::In<Tensor> inputs(std::span<const Tensor> in) { return ls::detail::gather_members<Op::In<Tensor>>(in); }

Tensor unit(Index batch, Index heads, Index n, DType t) {
  Tensor eye = Tensor::zeros({n, n}, t);
  for (Index i = 0; i < n; ++i) {
    eye.select(0, i).slice(0, i, i + 1).fill_(1);
  }
  return eye.unsqueeze(0).unsqueeze(0).expand({batch, heads, n, n}).clone();
}

// The transition is what the recurrence makes of the unit matrix when nothing is written.
Tensor transition(const Op::In<Tensor>& in, const void* attrs) {
  LS_CHECK(!in.beta_v.defined(), kUnsupported,
           "delta_rule: with one beta per value channel the transition differs between channels and has no [Dk,Dk] summary");
  Op::In<Tensor> free = in;
  const Index b = in.v.size(0), hv = in.v.size(2), dk = in.k.size(3);
  free.v = Tensor::zeros({b, in.v.size(1), hv, dk}, in.v.dtype());
  free.s0 = unit(b, hv, dk, acc_dtype(in.k.dtype()));
  return run_forward(op_info<Op>(), ls::detail::spread_members<Tensor>(free), attrs)[1];
}

[[maybe_unused]] const bool registered = register_family<Op>(
    "delta_rule",
    {.family = "delta",
     .kind = FamilyKind::kFixed,
     .summary = "S = exp(g) (I - beta k k^T) S + beta k v^T",
     .states = {{"S", "s0", "sT", StatePart::kMatrix}},
     .has_chunk = true,
     .has_parallel = true,
     .summarize =
         [](std::span<const Tensor> in, const void* attrs) {
           return Tensors{transition(inputs(in), attrs), run_forward(op_info<Op>(), in, attrs)[1]};
         },
     .identity =
         [](std::span<const Tensor> like, const void*) {
           const auto in = inputs(like);
           const DType t = acc_dtype(in.k.dtype());
           const Index b = in.v.size(0), hv = in.v.size(2), dk = in.k.size(3);
           return Tensors{unit(b, hv, dk, t), Tensor::zeros({b, hv, dk, in.v.size(3)}, t)};
         },
     .compose =
         [](const Tensors& a, const Tensors& b, const void*) {
           return Tensors{product(b[0], a[0]), sum(product(b[0], a[1]), b[1])};
         },
     .act = [](const Tensors& m, const Tensors& s, const void*) { return Tensors{sum(product(m[0], s[0]), m[1])}; },
     .act_adjoint = [](const Tensors& m, const Tensors& ds, const void*) { return Tensors{product(m[0], ds[0], true)}; }});

}  // namespace
}  // namespace ls::layers
