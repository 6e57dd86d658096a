// Summary of a stretch: (number of tokens, at most W-1; the last W-1 inputs, newest at the end,
// zeros before the first). The state is those inputs; a token shift keeps one, without the axis.
#include "core/ops/short_conv/short_conv.h"
#include "core/ops/token_shift/token_shift.h"
#include "layers/scan/family.h"

namespace ls::layers {
namespace {

Tensor count(Index n) {
  return Tensor::from(std::vector<std::int64_t>{n});
}

Index counted(const Tensors& summary) {
  return static_cast<Index>(summary[0].item());
}

// `older` moves out by n places, the last n of `newer` come in.
Tensor shifted(const Tensor& older, const Tensor& newer, Index n) {
  const Index w = older.size(2);
  Tensor out = Tensor::empty(older.shape(), older.dtype());
  out.slice(2, 0, w - n).copy_(older.slice(2, n, w));
  out.slice(2, w - n, w).copy_(newer.slice(2, w - n, w));
  return out;
}

// What moved out by n places goes back; what moved beyond the end has no gradient.
Tensor shifted_back(const Tensor& ds, Index n) {
  Tensor out = Tensor::zeros(ds.shape(), ds.dtype());
  const Index w = out.size(2);
  out.slice(2, n, w).copy_(ds.slice(2, 0, w - n));
  return out;
}

Tensors compose(const Tensors& a, const Tensors& b, const void*) {
  return {count(std::min(counted(a) + counted(b), b[1].size(2))), shifted(a[1], b[1], counted(b))};
}

[[maybe_unused]] const bool conv_registered = register_family<ops::ShortConv>(
    "short_conv",
    {.family = "window",
     .kind = FamilyKind::kFixed,
     .summary = "the last W-1 inputs of a depthwise convolution",
     .states = {{"x", "s0", "sT", StatePart::kConv}},
     .summarize =
         [](std::span<const Tensor> in, const void* attrs) {
           const Tensor tail = run_forward(op_info<ops::ShortConv>(), in, attrs)[1];
           return Tensors{count(std::min(in[0].size(1), tail.size(2))), tail};
         },
     .identity =
         [](std::span<const Tensor> like, const void*) {
           const auto in = ls::detail::gather_members<ops::ShortConv::In<Tensor>>(like);
           return Tensors{count(0),
                          Tensor::zeros({in.x.size(0), in.weight.size(0), in.weight.size(1) - 1},
                                        acc_dtype(in.x.dtype()))};
         },
     .compose = compose,
     .act = [](const Tensors& m, const Tensors& s,
               const void*) { return Tensors{shifted(s[0], m[1], counted(m))}; },
     .act_adjoint = [](const Tensors& m, const Tensors& ds,
                       const void*) { return Tensors{shifted_back(ds[0], counted(m))}; }});

[[maybe_unused]] const bool shift_registered = register_family<ops::TokenShift>(
    "token_shift",
    {.family = "window",
     .kind = FamilyKind::kFixed,
     .summary = "the last token, for mixing neighbours",
     .states = {{"x", "s0", "sT", StatePart::kConv}},
     .summarize =
         [](std::span<const Tensor> in, const void* attrs) {
           const Tensor tail = run_forward(op_info<ops::TokenShift>(), in, attrs)[1];
           return Tensors{count(std::min<Index>(in[0].size(1), 1)), tail.unsqueeze(2)};
         },
     .identity =
         [](std::span<const Tensor> like, const void*) {
           const Tensor& x = like[0];
           return Tensors{count(0), Tensor::zeros({x.size(0), x.size(2), 1}, acc_dtype(x.dtype()))};
         },
     .compose = compose,
     .act =
         [](const Tensors& m, const Tensors& s, const void*) {
           return Tensors{shifted(s[0].unsqueeze(2), m[1], counted(m)).squeeze(2)};
         },
     .act_adjoint =
         [](const Tensors& m, const Tensors& ds, const void*) {
           return Tensors{shifted_back(ds[0].unsqueeze(2), counted(m)).squeeze(2)};
         }});

}  // namespace
}  // namespace ls::layers
