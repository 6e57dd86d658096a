// Summary of a stretch: (sum of log-decays [B,H], X [B,H,Dk,Dv]); S' = exp(sum) S + X.
#include "core/ops/decayed_linear/decayed_linear.h"

#include <cmath>

#include "core/tensor/dispatch.h"
#include "layers/scan/family.h"

namespace ls::layers {
namespace {

using Op = ops::DecayedLinear;

Op::In<Tensor> inputs(std::span<const Tensor> in) {
  return ls::detail::gather_members<Op::In<Tensor>>(in);
}

Tensor log_decay(const Op::In<Tensor>& in) {
  const Index b = in.k.size(0), t = in.k.size(1), h = in.k.size(2);
  const DType type = acc_dtype(in.k.dtype());
  Tensor out = Tensor::empty({b, h}, type);
  dispatch_float(type, [&]<class A>() {
    const Tensor g = in.g.defined() ? in.g.contiguous() : Tensor();
    for (Index i = 0; i < b * h; ++i) {
      double sum = in.decay.defined() ? static_cast<double>(t) * in.decay.slow_at(i % h) : 0.0;
      for (Index j = 0; g.defined() && j < t; ++j) {
        sum += convert<double>(g.data<A>()[(i / h * t + j) * h + i % h]);
      }
      out.data<A>()[i] = convert<A>(sum);
    }
  });
  return out;
}

/// exp(sum) x + y, head by head; y may be absent.
Tensor decayed(const Tensor& sum, const Tensor& x, const Tensor& y) {
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  const Index size = x.size(2) * x.size(3), heads = x.size(0) * x.size(1);
  dispatch_float(x.dtype(), [&]<class A>() {
    const Tensor from = x.contiguous(), plus = y.defined() ? y.contiguous() : Tensor(),
                 d = sum.contiguous();
    const A* p = plus.defined() ? plus.data<A>() : nullptr;
    for (Index h = 0; h < heads; ++h) {
      const double f = std::exp(convert<double>(d.data<A>()[h]));
      for (Index i = h * size; i < (h + 1) * size; ++i) {
        out.data<A>()[i] =
            convert<A>(f * convert<double>(from.data<A>()[i]) + (p ? convert<double>(p[i]) : 0.0));
      }
    }
  });
  return out;
}

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
           return Tensors{
               Tensor::zeros({in.k.size(0), in.k.size(2)}, t),
               Tensor::zeros({in.k.size(0), in.k.size(2), in.k.size(3), in.v.size(3)}, t)};
         },
     .compose =
         [](const Tensors& a, const Tensors& b, const void*) {
           Tensor sum = a[0].clone();
           sum.add_(b[0]);
           return Tensors{sum, decayed(b[0], a[1], b[1])};
         },
     .act = [](const Tensors& m, const Tensors& s,
               const void*) { return Tensors{decayed(m[0], s[0], m[1])}; },
     .act_adjoint = [](const Tensors& m, const Tensors& ds,
                       const void*) { return Tensors{decayed(m[0], ds[0], Tensor())}; }});

}  // namespace
}  // namespace ls::layers
