// What the scan cases (short_conv_scan.cpp) leave out: packed documents, no tokens, vector widths.
#include "core/ops/short_conv/short_conv.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(ShortConv, "short_conv") {
  Draw draw("short_conv, options");
  const auto inputs = [&](Index b, Index t, Index d, Index w, Index n) {
    return ShortConv::In<Tensor>{.x = draw.normal({b, t, d}),
                                 .weight = draw.normal({d, w}),
                                 .bias = draw.normal({d}),
                                 .s0 = draw.normal({n, d, w - 1})};
  };
  for (const bool silu : {false, true}) {
    ShortConv::Attrs attrs;
    attrs.silu = silu;
    const std::string kind = silu ? "silu, " : "";
    auto packed = inputs(2, 15, 6, 4, 3);
    packed.offsets = Tensor::from<std::int64_t>({0, 6, 6, 7, 15, 22, 30, 30});
    cases.add(kind + "packed", packed, attrs);
    packed.s0 = packed.bias = Tensor();
    cases.add(kind + "packed, no state, no bias", packed, attrs);
    auto ends = inputs(2, 150, 8, 4, 3);  // ends everywhere in strips and batches of tokens
    ends.offsets = Tensor::from<std::int64_t>({0, 1, 3, 6, 10, 70, 150, 151, 217, 224, 300});
    cases.add(kind + "packed, whole packs", ends, attrs);
    cases.add(kind + "no tokens", inputs(2, 0, 6, 3, 2), attrs);
    for (const Index d : {1, 7, 8, 9, 33}) {
      cases.add(fmt::format("{}{} channels", kind, d), inputs(2, 5, d, 3, 2), attrs);
    }
    cases.add(kind + "large", inputs(3, 150, 129, 4, 3), attrs);
    cases.add(kind + "whole blocks, three taps", inputs(5, 9, 64, 3, 5), attrs);
  }
}

}  // namespace
}  // namespace ls::test
