#include "core/ops/decayed_linear/decayed_linear.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = DecayedLinear::In<Tensor>;

void pad(In& in, Index a, Index b) {
  in.k.slice(1, a, b).zero_();
  if (in.g.defined()) {
    in.g.slice(1, a, b).zero_();
  }
}

LS_SCAN_CASES(DecayedLinear, "decayed_linear") {
  Draw draw("decayed_linear");
  DecayedLinear::Attrs attrs;
  attrs.scale = 0.4;
  const auto qkv = [&](Index b, Index t, Index hq, Index h, Index dk, Index dv) {
    return In{.q = draw.normal({b, t, hq, dk}),
              .k = draw.normal({b, t, h, dk}, 0.5),
              .v = draw.normal({b, t, h, dv})};
  };

  In none = qkv(2, 70, 2, 2, 5, 3);
  cases.add("no decay", none, attrs).mask(pad);

  In constant = qkv(1, 83, 4, 2, 6, 7);
  constant.decay = Tensor::from(std::vector<double>{-0.03, -0.4});
  constant.s0 = draw.normal({1, 2, 6, 7});
  cases.add("constant decay, grouped queries", constant, attrs);

  In scalar = qkv(2, 131, 2, 2, 4, 9);
  scalar.g = draw.uniform({2, 131, 2}, -0.6, 0);
  scalar.s0 = draw.normal({2, 2, 4, 9});
  cases.add("decay per token", scalar, attrs).mask(pad);

  In grouped = qkv(2, 40, 6, 2, 5, 4);
  grouped.g = draw.uniform({2, 40, 2}, -0.2, 0);
  cases.add("decay per token, grouped queries", grouped, attrs).mask(pad);

  In extreme = qkv(1, 96, 1, 1, 8, 8);
  extreme.g = draw.extreme_gates({1, 96, 1});
  extreme.s0 = draw.normal({1, 1, 8, 8});
  cases.add("gates at 0, -1e-7 and down to -300", extreme, attrs).mask(pad);

  In one = qkv(3, 1, 2, 1, 4, 4);
  one.g = draw.uniform({3, 1, 1}, -1, 0);
  one.s0 = draw.normal({3, 1, 4, 4});
  cases.add("one token", one, attrs).mask(pad);

  In wide = qkv(1, 5, 1, 1, 33, 17);
  wide.g = draw.uniform({1, 5, 1}, -1, 0);
  cases.add("short and wide", wide, attrs).mask(pad);

  In lasting = qkv(1, 600, 1, 1, 3, 2);
  lasting.g = draw.uniform({1, 600, 1}, -0.02, 0);
  lasting.s0 = draw.normal({1, 1, 3, 2});
  cases.add("long", lasting, attrs).mask(pad);
}

}  // namespace
}  // namespace ls::test
