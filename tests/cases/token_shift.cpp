// What the scan cases (token_shift_scan.cpp) leave out: packed documents, no tokens, vector widths.
#include "core/ops/token_shift/token_shift.h"

#include "tests/support/op_case.h"

namespace ls::test {
namespace {

LS_OP_CASES(TokenShift, "token_shift") {
  Draw draw("token_shift, options");
  const auto inputs = [&](Index b, Index t, Index d, Index n) {
    return TokenShift::In<Tensor>{.x = draw.normal({b, t, d}), .s0 = draw.normal({n, d})};
  };
  auto packed = inputs(2, 15, 6, 3);
  packed.offsets = Tensor::from<std::int64_t>({0, 6, 6, 7, 15, 22, 30, 30});
  cases.add("packed", packed);
  packed.s0 = Tensor();
  cases.add("packed, no state", packed);
  cases.add("no tokens", inputs(2, 0, 6, 2));
  for (const Index d : {1, 7, 8, 9, 33}) {
    cases.add(fmt::format("{} channels", d), inputs(2, 5, d, 2));
  }
  auto documents = inputs(1, 300, 9, 2);
  documents.offsets = Tensor::from<std::int64_t>({0, 129, 130, 130, 300});
  cases.add("large, packed", documents);
  cases.add("large", inputs(3, 150, 129, 3));
}

}  // namespace
}  // namespace ls::test
