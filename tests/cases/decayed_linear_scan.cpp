#include "core/ops/decayed_linear/decayed_linear.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = DecayedLinear::In<Tensor>;

void pad(In& in, Index a, Index b) {
  in.k.slice(1, a, b).zero_();
  for (Tensor* gate : {&in.g, &in.gk, &in.gv}) {
    if (gate->defined()) {
      gate->slice(1, a, b).zero_();
    }
  }
}

/// Decays per channel, alone and together; shared keys and queries; a read before the write.
void channels(ScanCaseList<DecayedLinear>& cases) {
  Draw draw("decayed_linear, channels");
  DecayedLinear::Attrs attrs;
  attrs.scale = 0.4;
  const auto qkv = [&](Index t, Index hq, Index hk, Index h, Index dk, Index dv) {
    return In{.q = draw.normal({1, t, hq, dk}),
              .k = draw.normal({1, t, hk, dk}, 0.5),
              .v = draw.normal({1, t, h, dv})};
  };

  In keys = qkv(83, 2, 2, 2, 6, 3);
  keys.gk = draw.uniform({1, 83, 2, 6}, -0.6, 0);
  keys.s0 = draw.normal({1, 2, 6, 3});
  cases.add("decay per key channel", keys, attrs).mask(pad);

  In values = qkv(70, 4, 2, 2, 3, 17);
  values.gv = draw.uniform({1, 70, 2, 17}, -0.6, 0);
  values.g = draw.uniform({1, 70, 2}, -0.2, 0);
  values.s0 = draw.normal({1, 2, 3, 17});
  cases.add("decay per value channel and head, grouped queries", values, attrs).mask(pad);

  In both = qkv(52, 2, 1, 2, 5, 4);
  both.gk = draw.uniform({1, 52, 2, 5}, -0.3, 0);
  both.gv = draw.uniform({1, 52, 2, 4}, -0.3, 0);
  both.decay = Tensor::from(std::vector<double>{-0.05, -0.2});
  both.s0 = draw.normal({1, 2, 5, 4});
  cases.add("decays per key and value channel and constant, shared keys", both, attrs);

  In shared = qkv(67, 2, 1, 4, 7, 5);
  shared.g = draw.uniform({1, 67, 4}, -0.4, 0);
  shared.s0 = draw.normal({1, 4, 7, 5});
  cases.add("decay per token, shared keys and queries", shared, attrs).mask(pad);

  In bonus = qkv(71, 4, 2, 2, 4, 3);
  bonus.gk = draw.uniform({1, 71, 2, 4}, -0.8, 0);
  bonus.u = draw.normal({2, 4});
  bonus.s0 = draw.normal({1, 2, 4, 3});
  cases.add("bonus, decay per key channel, grouped queries", bonus, attrs).mask(pad);

  In all = qkv(49, 2, 2, 4, 3, 5);
  all.g = draw.uniform({1, 49, 4}, -0.1, 0);
  all.gk = draw.uniform({1, 49, 4, 3}, -0.4, 0);
  all.gv = draw.uniform({1, 49, 4, 5}, -0.4, 0);
  all.u = draw.normal({1, 3});
  all.s0 = draw.normal({1, 4, 3, 5});
  cases.add("everything at once", all, attrs).mask(pad);

  In plain = qkv(40, 1, 1, 2, 3, 4);
  plain.u = draw.normal({2, 3});
  cases.add("bonus, no decay, one key and query", plain, attrs).mask(pad);

  In extreme = qkv(96, 1, 1, 1, 8, 8);
  extreme.gk = draw.extreme_gates({1, 96, 1, 8});
  extreme.gv = draw.extreme_gates({1, 96, 1, 8});
  extreme.s0 = draw.normal({1, 1, 8, 8});
  cases.add("gates per channel at 0, -1e-7 and down to -300", extreme, attrs).mask(pad);

  In strong = qkv(80, 1, 1, 1, 5, 4);
  strong.gk = draw.uniform({1, 80, 1, 5}, -12, -3);
  strong.u = draw.normal({1, 5});
  strong.s0 = draw.normal({1, 1, 5, 4});
  cases.add("bonus, every gate strong", strong, attrs).mask(pad);
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
  channels(cases);
}

}  // namespace
}  // namespace ls::test
