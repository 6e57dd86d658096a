// Summary of a stretch: (sum of log-decays [B,H], X [B,H,Dk,Dv]); S' = exp(sum) S + X.
#include <cmath>

#include "core/ops/decayed_linear/decayed_linear.h"
#include "layers/scan/family.h"

namespace ls::layers {
namespace {

using Op = ls::DecayedLinear;

Tensor log_decay(const Op::In<Tensor>& in) {
  const Index b = in.k.size(0), t = in.k.size(1), h = in.k.size(2);
  Tensor sum = Tensor::zeros({b, h}, acc_dtype(in.k.dtype()));
  if (in.g.defined()) {
    for (Index i = 0; i < t; ++i) {
      sum.add_(in.g.select(1, i));
    }
  } else if (in.decay.defined()) {
    sum.add_(in.decay.unsqueeze(0).expand({b, h}), static_cast<double>(t));
  }
  return sum;
}

// x [B,H,Dk,Dv] with head h of row b times exp(d[b,h]), plus y.
Tensor decayed(const Tensor& d, const Tensor& x, const Tensor& y) {
  Tensor out = x.clone();
  for (Index b = 0; b < x.size(0); ++b) {
    for (Index h = 0; h < x.size(1); ++h) {
      out.select(0, b).select(0, h).mul_(std::exp(d.at(b * x.size(1) + h)));
    }
  }
  if (y.defined()) {
    out.add_(y);
  }
  return out;
}

Op::In<Tensor> inputs(std::span<const Tensor> in) { return ls::detail::gather_members<Op::In<Tensor>>(in); }

[[maybe_unused]] const bool registered = register_family<Op>(
    "decayed_linear",
    {.family = "decayed_linear",
     .kind = FamilyKind::kFixed,
     .summary = "S = exp(g) S + k v^T with no, constant or scalar decay",
     .states = {{"S", "s0", "sT", StatePart::kMatrix}},
     .has_chunk = true,
     .has_parallel = true,
     .summarize =
         [](std::span<const Tensor> in, const void* attrs) {
           return Tensors{log_decay(inputs(in)), run_forward(op_info<Op>(), in, attrs)[1]};
         },
     .identity =
         [](std::span<const Tensor> like, const void*) {
           const auto in = inputs(like);
           const DType t = acc_dtype(in.k.dtype());
           return Tensors{Tensor::zeros({in.k.size(0), in.k.size(2)}, t),
                          Tensor::zeros({in.k.size(0), in.k.size(2), in.k.size(3), in.v.size(3)}, t)};
         },
     .compose =
         [](const Tensors& a, const Tensors& b, const void*) {
           Tensor sum = a[0].clone();
           sum.add_(b[0]);
           return Tensors{sum, decayed(b[0], a[1], b[1])};
         },
     .act = [](const Tensors& m, const Tensors& s, const void*) { return Tensors{decayed(m[0], s[0], m[1])}; },
     .act_adjoint = [](const Tensors& m, const Tensors& ds, const void*) { return Tensors{decayed(m[0], ds[0], Tensor())}; }});

}  // namespace
}  // namespace ls::layers
