// What the scan cases (gru_scan.cpp) leave out: packed documents, no tokens, saturated gates.
#include "core/ops/gru/gru.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(Gru, "gru") {
  Draw draw("gru, options"), documents("gru, documents");
  for (const Reset reset : {Reset::kAfter, Reset::kBefore}) {
    Gru::Attrs attrs;
    attrs.reset = reset;
    const bool after = reset == Reset::kAfter;
    const auto drawn = [&](Draw& draw, Index b, Index t, Index d, Index heads, Index n,
                           double scale) {
      return Gru::In<Tensor>{.gx = draw.normal({b, t, 3 * d}, scale),
                             .r = draw.normal({heads, 3 * d / heads, d / heads}, 0.4),
                             .bias = draw.normal({3 * d}),
                             .bias_n = after ? draw.normal({d}) : Tensor(),
                             .h0 = draw.uniform({n, d}, -1, 1)};
    };
    const auto inputs = [&](Index b, Index t, Index d, Index heads, Index n, double scale = 1) {
      return drawn(draw, b, t, d, heads, n, scale);
    };
    const std::string kind = fmt::format("reset {}, ", enum_name(reset));
    auto row = inputs(1, 15, 6, 2, 4);
    row.h0 = row.h0.slice(0, 0, 2).contiguous();
    row.offsets = Tensor::from<std::int64_t>({0, 6, 6, 7, 15});
    cases.add(kind + "packed, one row", row, attrs);
    auto packed = drawn(documents, 2, 15, 6, 2, 3, 1);
    packed.offsets = Tensor::from<std::int64_t>({0, 6, 6, 7, 15, 22, 30, 30});
    cases.add(kind + "packed", packed, attrs);
    packed.h0 = packed.bias = packed.bias_n = Tensor();
    cases.add(kind + "packed, no state, no bias", packed, attrs);
    auto outside = inputs(2, 9, 6, 1, 2);
    outside.bias_n = Tensor();
    cases.add(kind + "one bias", outside, attrs);
    cases.add(kind + "no tokens", inputs(2, 0, 6, 1, 2), attrs);
    cases.add(kind + "one channel", inputs(2, 3, 1, 1, 2), attrs);
    cases.add(kind + "saturated", inputs(2, 9, 4, 1, 2, 30), attrs)
        .slack(4, "1 - z of a z near 1 has few digits left");
    cases.add(kind + "large", inputs(8, 60, 64, 2, 8), attrs);
    // Weights that no processor of a GPU holds: shared out over all.
    auto dense = inputs(19, 7, 264, 2, 19);
    dense.r = draw.normal({2, 396, 132}, 0.08);
    cases.add(kind + "dense", dense, attrs);
    dense.h0 = dense.bias = dense.bias_n = Tensor();
    cases.add(kind + "dense, no state, no bias", dense, attrs);
  }
  Gru::In<Tensor> inside{
      .gx = draw.normal({2, 9, 12}), .r = draw.normal({1, 12, 4}, 0.4), .bias_n = draw.normal({4})};
  cases.add("bias inside alone", inside);
}

}  // namespace
}  // namespace ls::test
