// Summary of a stretch: its keys and values, under a window the last window-1 of them. The state is
// the same of everything so far; composing is laying end to end.
#include "core/ops/attention/attention.h"
#include "layers/scan/family.h"

namespace ls::layers {
namespace {

using Op = ls::Attention;

Tensor joined(const Tensor& a, const Tensor& b, const void* attrs) {
  Shape shape = a.shape();
  shape[1] += b.size(1);
  Tensor out = Tensor::empty(shape, a.dtype());
  out.slice(1, 0, a.size(1)).copy_(a);
  out.slice(1, a.size(1), shape[1]).copy_(b);
  const Index window = static_cast<const Op::Attrs*>(attrs)->window;
  return window > 0 && shape[1] > window - 1 ? out.slice(1, shape[1] - (window - 1), shape[1])
                                             : out;
}

[[maybe_unused]] const bool registered = register_family<Op>(
    "attention",
    {.family = "keys_values",
     .kind = FamilyKind::kGrowing,
     .summary = "keys and values of the tokens so far, or of a sliding window",
     .states = {{"k", "k0", "kT", StatePart::kKeyValue}, {"v", "v0", "vT", StatePart::kKeyValue}},
     .boundary = Boundary::kStart,
     .has_chunk = true,
     .summarize =
         [](std::span<const Tensor> in, const void* attrs) {
           const std::vector<Tensor> out = run_forward(op_info<Op>(), in, attrs);
           return Tensors{out[2], out[3]};
         },
     .identity =
         [](std::span<const Tensor> like, const void*) {
           const auto in = ls::detail::gather_members<Op::In<Tensor>>(like);
           return Tensors{in.k.slice(1, 0, 0).clone(), in.v.slice(1, 0, 0).clone()};
         },
     .compose =
         [](const Tensors& a, const Tensors& b, const void* attrs) {
           return Tensors{joined(a[0], b[0], attrs), joined(a[1], b[1], attrs)};
         },
     .act =
         [](const Tensors& m, const Tensors& s, const void* attrs) {
           return Tensors{joined(s[0], m[0], attrs), joined(s[1], m[1], attrs)};
         },
     // Rows of the state that are still kept; those that left the window have no gradient.
     .act_adjoint =
         [](const Tensors& m, const Tensors& ds, const void*) {
           return Tensors{ds[0].slice(1, 0, ds[0].size(1) - m[0].size(1)),
                          ds[1].slice(1, 0, ds[1].size(1) - m[1].size(1))};
         }});

}  // namespace
}  // namespace ls::layers
