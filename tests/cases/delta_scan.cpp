#include "core/ops/delta_rule/delta_rule.h"
#include "tests/support/draw.h"
#include "tests/support/scan_laws.h"

namespace ls::test {
namespace {

using In = DeltaRule::In<Tensor>;

/// Nothing decays, is erased or written.
void pad(In& in, Index from, Index to) {
  for (Tensor* x : {&in.g, &in.gk, &in.beta, &in.b}) {
    if (x->defined()) {
      x->slice(1, from, to).zero_();
    }
  }
  if (in.b.defined()) {
    in.v.slice(1, from, to).zero_();
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

  In channels = inputs(2, 75, 1, 2, 5, 3, 1);
  channels.gk = draw.uniform({2, 75, 2, 5}, -0.3, 0);
  cases.add("gates by channel", channels, attrs).mask(pad);

  In both = inputs(1, 131, 2, 4, 6, 7, 1);
  both.g = draw.uniform({1, 131, 4}, -0.1, 0);
  both.gk = draw.uniform({1, 131, 4, 6}, -0.1, 0);
  both.s0 = draw.normal({1, 4, 6, 7});
  cases.add("gates by head and by channel, normalised inside", both, normalised).mask(pad);

  In closed = inputs(1, 96, 1, 1, 8, 8, 1);
  closed.gk = draw.extreme_gates({1, 96, 1, 8});
  closed.s0 = draw.normal({1, 1, 8, 8});
  cases.add("gates by channel at 0, -1e-7 and down to -300", closed, attrs).mask(pad);

  const auto low_rank = [&](In in) {
    in.beta = Tensor();
    in.a = draw.normal(in.k.shape(), 0.3);
    in.b = draw.normal(in.k.shape(), 0.3);
    return in;
  };
  cases.add("low rank, gates by channel", low_rank(channels), attrs).mask(pad);
  cases.add("low rank, both gates, normalised inside", low_rank(both), normalised).mask(pad);
  cases.add("low rank, gates down to -300", low_rank(closed), attrs).mask(pad);
  cases.add("low rank, no gate", low_rank(inputs(1, 45, 1, 2, 5, 3, 1)), attrs).mask(pad);

  In one = inputs(3, 1, 1, 2, 4, 4, 1);
  one.g = draw.uniform({3, 1, 2}, -1, 0);
  one.s0 = draw.normal({3, 2, 4, 4});
  cases.add("one token", one, attrs).mask(pad);

  In one_channel = one;
  one_channel.gk = draw.uniform({3, 1, 2, 4}, -1, 0);
  cases.add("one token, gates by channel", one_channel, attrs).mask(pad);
  cases.add("one token, low rank", low_rank(one_channel), attrs).mask(pad);

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
