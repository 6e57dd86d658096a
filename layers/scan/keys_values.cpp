// The state is the keys and values of everything so far, or of what a window reaches back to.
#include "core/ops/attention/attention.h"
#include "layers/scan/scan.h"

namespace ls::layers {
namespace {

using Op = ops::Attention;

Tensors none(const Op::In<Tensor>&, const Op::Attrs&) {
  return {};
}
/// The stretch's own keys and values, as many as are kept.
Tensors newest(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
  const Index rows = in.k.size(1), from = rows - attrs.kept(rows);
  return {in.k.slice(1, from, rows).clone(), in.v.slice(1, from, rows).clone()};
}

/// What every key sees alike can be looked at part by part.
bool merges(const Op::In<Tensor>& in, const Op::Attrs& attrs) {
  return !in.bias.defined() && attrs.prefix == 0 && attrs.causal;
}
/// The queries of a stretch and other keys.
Op::Attrs look_at(Op::In<Tensor>& in, const Tensors& keys, Index ahead, bool own,
                  const Op::Attrs& attrs) {
  in.k = keys[0];
  in.v = keys[1];
  in.k0 = in.v0 = Tensor();
  if (!own) {
    in.sink = Tensor();  // it counts once
  }
  Op::Attrs there = attrs;
  there.q_offset += ahead;
  return there;
}

LS_SCAN(Op, "attention", "keys and values of all tokens so far")
    .family("keys_values", FamilyKind::kGrowing)
    .applies([](const Op::Attrs& a) { return a.window == 0; })
    .state("k", "k0", "kT", StatePart::kKeyValue)
    .state("v", "v0", "vT", StatePart::kKeyValue)
    .boundary(Boundary::kStart)
    .heads({"H", "HQ"})
    .columns({"Dv"})
    .merged_by("lse", merges, look_at)
    .chunked()
    .transition(transitions::kConcatenation, none)
    .writes(newest);

LS_SCAN(Op, "sliding_window", "keys and values of the last W-1 tokens: attention with a window")
    .family("window", FamilyKind::kFixed)
    .applies([](const Op::Attrs& a) { return a.window > 0; })
    .state("k", "k0", "kT", StatePart::kKeyValue)
    .state("v", "v0", "vT", StatePart::kKeyValue)
    .boundary(Boundary::kStart)
    .heads({"H", "HQ"})
    .columns({"Dv"})
    .merged_by("lse", merges, look_at)
    .reach([](const Op::In<Tensor>&, const Op::Attrs& a) -> Index { return a.window - 1; })
    .chunked()
    .transition(transitions::kConcatenation, none)
    .window([](const Op::Attrs& a) -> Index { return a.window - 1; })
    .writes(newest);

}  // namespace
}  // namespace ls::layers
