// Summary of a stretch: its keys and values, under a window the last window-1 of them. The state is
// the same of everything so far; composing is laying end to end.
#include "core/ops/attention/attention.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::Attention;

/// Rows of `later` behind those of `earlier`, as many as the window keeps.
Tensor joined(const Tensor& earlier, const Tensor& later, const Op::Attrs& attrs) {
  Shape shape = earlier.shape();
  shape[1] += later.size(1);
  Tensor out = Tensor::empty(shape, earlier.dtype());
  out.slice(1, 0, earlier.size(1)).copy_(earlier);
  out.slice(1, earlier.size(1), shape[1]).copy_(later);
  return out.slice(1, shape[1] - attrs.kept(shape[1]), shape[1]);
}

struct Cache {
  static Tensors summarize(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
    const auto out = call_op<Op>(in, attrs);
    return {out.kT, out.vT};
  }
  static Tensors identity(const Op::In<Tensor>& like, const Op::Attrs&) {
    return {like.k.slice(1, 0, 0).clone(), like.v.slice(1, 0, 0).clone()};
  }
  static Tensors compose(const Tensors& earlier, const Tensors& later, const Op::Attrs& attrs) {
    return {joined(earlier[0], later[0], attrs), joined(earlier[1], later[1], attrs)};
  }
  static Tensors act(const Tensors& m, const Tensors& s, const Op::Attrs& attrs) {
    return compose(s, m, attrs);
  }
  /// Of rows of the state that are still kept; those that left the window have no gradient.
  static Tensors act_adjoint(const Tensors& m, const Tensors& ds) {
    const Index kept = ds[0].size(1) - m[0].size(1);
    return {ds[0].slice(1, 0, kept), ds[1].slice(1, 0, kept)};
  }
};

LS_SCAN(Op, "attention", "keys and values of all tokens so far")
    .family("keys_values", FamilyKind::kGrowing)
    .applies([](const Op::Attrs& a) { return a.window == 0; })
    .state("k", "k0", "kT", StatePart::kKeyValue)
    .state("v", "v0", "vT", StatePart::kKeyValue)
    .boundary(Boundary::kStart)
    .chunked()
    .summary<Cache>();

LS_SCAN(Op, "sliding_window", "keys and values of the last W-1 tokens: attention with a window")
    .family("window", FamilyKind::kFixed)
    .applies([](const Op::Attrs& a) { return a.window > 0; })
    .state("k", "k0", "kT", StatePart::kKeyValue)
    .state("v", "v0", "vT", StatePart::kKeyValue)
    .boundary(Boundary::kStart)
    .reach([](const Op::In<Tensor>&, const Op::Attrs& a) -> Index { return a.window - 1; })
    .chunked()
    .summary<Cache>();

}  // namespace
}  // namespace ls::layers
