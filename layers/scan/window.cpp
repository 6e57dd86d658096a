// Summary of a stretch: (number of tokens, at most W-1; the last W-1 inputs, newest at the end,
// zeros before the first). The state is those inputs.
#include "core/ops/short_conv/short_conv.h"
#include "layers/scan/family.h"

namespace ls::layers {
namespace {

using Op = ls::ShortConv;

Tensor count(Index n) {
  return Tensor::from(std::vector<std::int64_t>{n});
}

// `older` moves out by n places, the last n of `newer` come in.
Tensor shifted(const Tensor& older, const Tensor& newer, Index n) {
  const Index w = older.size(2);
  Tensor out = Tensor::empty(older.shape(), older.dtype());
  out.slice(2, 0, w - n).copy_(older.slice(2, n, w));
  out.slice(2, w - n, w).copy_(newer.slice(2, w - n, w));
  return out;
}

[[maybe_unused]] const bool registered = register_family<Op>(
    "short_conv",
    {.family = "window",
     .kind = FamilyKind::kFixed,
     .summary = "the last W-1 inputs of a depthwise convolution",
     .states = {{"x", "s0", "sT", StatePart::kConv}},
     .summarize =
         [](std::span<const Tensor> in, const void* attrs) {
           const Tensor tail = run_forward(op_info<Op>(), in, attrs)[1];
           return Tensors{count(std::min(in[0].size(1), tail.size(2))), tail};
         },
     .identity =
         [](std::span<const Tensor> like, const void*) {
           const auto in = ls::detail::gather_members<Op::In<Tensor>>(like);
           return Tensors{count(0),
                          Tensor::zeros({in.x.size(0), in.weight.size(0), in.weight.size(1) - 1},
                                        acc_dtype(in.x.dtype()))};
         },
     .compose =
         [](const Tensors& a, const Tensors& b, const void*) {
           const auto n = static_cast<Index>(b[0].item());
           return Tensors{count(std::min(static_cast<Index>(a[0].item()) + n, b[1].size(2))),
                          shifted(a[1], b[1], n)};
         },
     .act =
         [](const Tensors& m, const Tensors& s, const void*) {
           return Tensors{shifted(s[0], m[1], static_cast<Index>(m[0].item()))};
         },
     .act_adjoint =
         [](const Tensors& m, const Tensors& ds, const void*) {
           const auto n = static_cast<Index>(m[0].item());
           Tensor out = Tensor::zeros(ds[0].shape(), ds[0].dtype());
           const Index w = out.size(2);
           out.slice(2, n, w).copy_(ds[0].slice(2, 0, w - n));
           return Tensors{out};
         }});

}  // namespace
}  // namespace ls::layers
