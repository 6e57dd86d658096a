#include "core/ops/token_shift/token_shift.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = TokenShift::In<Tensor>;

LS_SCAN_CASES(TokenShift, "token_shift") {
  Draw draw("token_shift");
  cases.add("plain", In{.x = draw.normal({2, 150, 5})});
  cases.add("carried", In{.x = draw.normal({2, 20, 7}), .s0 = draw.normal({2, 7})});
  cases.add("one token", In{.x = draw.normal({3, 1, 4}), .s0 = draw.normal({3, 4})});
}

}  // namespace
}  // namespace ls::test
