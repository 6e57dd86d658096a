#include "core/ops/delta_rule/delta_rule.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = DeltaRule::In<Tensor>;

void pad(In& in, Index a, Index b) {
  (in.beta.defined() ? in.beta : in.beta_v).slice(1, a, b).zero_();
  if (in.g.defined()) {
    in.g.slice(1, a, b).zero_();
  }
}

LS_SCAN_CASES(DeltaRule, "delta_rule") {
  Draw draw("delta_rule");
  DeltaRule::Attrs attrs;
  attrs.scale = 0.4;
  const auto inputs = [&](Index b, Index t, Index h, Index hv, Index dk, Index dv, double most) {
    return In{.q = draw.normal({b, t, h, dk}),
              .k = draw.unit_rows({b, t, h, dk}),
              .v = draw.normal({b, t, hv, dv}),
              .beta = draw.uniform({b, t, hv}, 0, most)};
  };

  cases.add("no gate", inputs(2, 70, 2, 2, 5, 3, 1), attrs).mask(pad);

  In grouped = inputs(1, 83, 2, 4, 6, 7, 1);
  grouped.g = draw.uniform({1, 83, 4}, -0.3, 0);
  grouped.s0 = draw.normal({1, 4, 6, 7});
  cases.add("gate, grouped values", grouped, attrs).mask(pad);

  DeltaRule::Attrs normalised = attrs;
  normalised.qk_l2norm = true;
  In raw = inputs(2, 131, 1, 2, 8, 4, 1);
  raw.k = draw.normal({2, 131, 1, 8}, 3);
  raw.g = draw.uniform({2, 131, 2}, -0.3, 0);
  raw.s0 = draw.normal({2, 2, 8, 4});
  cases.add("normalised inside", raw, normalised).mask(pad);

  In negative = inputs(1, 131, 1, 1, 4, 6, 2);
  negative.s0 = draw.normal({1, 1, 4, 6});
  cases.add("beta up to 2", negative, attrs).mask(pad);

  In reflections = inputs(1, 97, 2, 2, 4, 4, 2);
  reflections.beta.fill_(2);
  reflections.s0 = draw.normal({1, 2, 4, 4});
  cases.add("beta 2: reflections", reflections, attrs).mask(pad);

  In extreme = inputs(1, 96, 1, 1, 8, 8, 1);
  extreme.g = draw.extreme_gates({1, 96, 1});
  extreme.s0 = draw.normal({1, 1, 8, 8});
  cases.add("gates at 0, -1e-7 and down to -300", extreme, attrs).mask(pad);

  In channels = inputs(1, 45, 1, 2, 5, 3, 1);
  channels.beta = Tensor();
  channels.beta_v = draw.uniform({1, 45, 2, 3}, 0, 1.5);
  channels.g = draw.uniform({1, 45, 2}, -0.3, 0);
  channels.s0 = draw.normal({1, 2, 5, 3});
  cases.add("beta per value channel", channels, attrs).mask(pad);

  In one = inputs(3, 1, 1, 2, 4, 4, 1);
  one.g = draw.uniform({3, 1, 2}, -1, 0);
  one.s0 = draw.normal({3, 2, 4, 4});
  cases.add("one token", one, attrs).mask(pad);

  In wide = inputs(1, 5, 1, 1, 33, 17, 1);
  wide.g = draw.uniform({1, 5, 1}, -1, 0);
  cases.add("short and wide", wide, attrs).mask(pad);

  In lasting = inputs(1, 600, 1, 1, 4, 2, 1.5);
  lasting.g = draw.uniform({1, 600, 1}, -0.02, 0);
  lasting.s0 = draw.normal({1, 1, 4, 2});
  cases.add("long", lasting, attrs).mask(pad);
}

}  // namespace
}  // namespace ls::test
