// What the scan cases (selective_scan_scan.cpp) leave out: packed documents, no tokens.
#include "core/ops/selective_scan/selective_scan.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(SelectiveScan, "selective_scan") {
  Draw draw("selective_scan, options");
  const auto inputs = [&](Index b, Index t, Index d, Index g, Index s, Index n) {
    return SelectiveScan::In<Tensor>{.x = draw.normal({b, t, d}),
                                     .dt = draw.uniform({b, t, d}, 0, 1),
                                     .a = draw.uniform({d, s}, -2, 0),
                                     .b = draw.normal({b, t, g, s}),
                                     .c = draw.normal({b, t, g, s}),
                                     .s0 = n > 0 ? draw.normal({n, d, s}) : Tensor()};
  };
  auto packed = inputs(2, 45, 6, 2, 5, 2);
  packed.offsets = Tensor::from<std::int64_t>({0, 20, 20, 21, 45, 70, 90, 90});
  cases.add("packed, states of rows", packed);
  packed.s0 = draw.normal({3, 6, 5});
  cases.add("packed, a state for documents inside", packed);
  auto chunks = inputs(1, 70, 40, 1, 16, 0);  // ends at and beside those of chunks of 16 tokens
  chunks.offsets = Tensor::from<std::int64_t>({0, 1, 15, 16, 32, 33, 47, 64, 70});
  cases.add("packed, no state", chunks);
  cases.add("no tokens", inputs(2, 0, 6, 1, 4, 2));
}

}  // namespace
}  // namespace ls::test
