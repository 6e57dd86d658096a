// Summary of a stretch: its keys and values, under a window the last window-1 of them. The state is
// the same of everything so far; composing is laying end to end.
#include "core/ops/attention/attention.h"
#include "layers/scan/family.h"

namespace ls::layers {
namespace {

using Op = ops::Attention;

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

Tensors summarize(std::span<const Tensor> in, const void* attrs) {
  const std::vector<Tensor> out = run_forward(op_info<Op>(), in, attrs);
  return {out[2], out[3]};
}

Tensors identity(std::span<const Tensor> like, const void*) {
  const auto in = ls::detail::gather_members<Op::In<Tensor>>(like);
  return {in.k.slice(1, 0, 0).clone(), in.v.slice(1, 0, 0).clone()};
}

/// `later` behind `earlier`: two summaries, or a state and a summary.
Tensors behind(const Tensors& earlier, const Tensors& later, const void* attrs) {
  return {joined(earlier[0], later[0], attrs), joined(earlier[1], later[1], attrs)};
}

// Rows of the state that are still kept; those that left the window have no gradient.
Tensors act_adjoint(const Tensors& m, const Tensors& ds, const void*) {
  return {ds[0].slice(1, 0, ds[0].size(1) - m[0].size(1)),
          ds[1].slice(1, 0, ds[1].size(1) - m[1].size(1))};
}

bool has_window(const void* attrs) {
  return static_cast<const Op::Attrs*>(attrs)->window > 0;
}

FamilyInfo scan(std::string family, FamilyKind kind, std::string summary,
                std::function<bool(const void*)> applies) {
  return {
      .family = std::move(family),
      .kind = kind,
      .summary = std::move(summary),
      .states = {{"k", "k0", "kT", StatePart::kKeyValue}, {"v", "v0", "vT", StatePart::kKeyValue}},
      .boundary = Boundary::kStart,
      .applies = std::move(applies),
      .has_chunk = true,
      .summarize = summarize,
      .identity = identity,
      .compose = behind,
      .act = [](const Tensors& m, const Tensors& s,
                const void* attrs) { return behind(s, m, attrs); },
      .act_adjoint = act_adjoint};
}

[[maybe_unused]] const bool registered[] = {
    register_family<Op>("attention", scan("keys_values", FamilyKind::kGrowing,
                                          "keys and values of all tokens so far",
                                          [](const void* a) { return !has_window(a); })),
    register_family<Op>("sliding_window", scan("window", FamilyKind::kFixed,
                                               "keys and values of the last W-1 tokens: "
                                               "attention with a window",
                                               has_window))};

}  // namespace
}  // namespace ls::layers
