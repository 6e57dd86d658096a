// What the recurrence of decayed_linear must do by its algebra: closed forms, hand-set weights. In
// every form, f64 and f32.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/draw.h"
#include "tests/support/recurrences.h"

using namespace ls;
using namespace ls::test;
using namespace ls::test::recurrences;

TEST_SUITE("conformance") {
  TEST_CASE("decayed_linear: no, zero and constant decay") {
    Draw draw("identities 1");
    const Linear in{.q = draw.normal({2, 75, 2, 4}),
                    .k = draw.normal({2, 75, 2, 4}),
                    .v = draw.normal({2, 75, 2, 3})};
    for (const Way& way : kWays) {
      const auto none = run<ops::DecayedLinear>(way, in);
      Linear zero = in, flat = in, expanded = in;
      zero.g = constant({2, 75, 2}, 0);
      CHECK(difference(run<ops::DecayedLinear>(way, zero).o, none.o) < 40 * way.tolerance);
      flat.decay = Tensor::from(std::vector<double>{-0.25, -0.01});
      expanded.g = flat.decay.unsqueeze(0).unsqueeze(0).expand({2, 75, 2});
      const auto a = run<ops::DecayedLinear>(way, flat), b = run<ops::DecayedLinear>(way, expanded);
      CHECK(difference(a.o, b.o) < way.tolerance * 10);
      CHECK(difference(a.sT, b.sT) < way.tolerance * 10);
    }
  }

  TEST_CASE("decayed_linear: geometric series") {
    const Index t = 90;
    Linear in{.q = constant({1, t, 1, 1}, 1),
              .k = constant({1, t, 1, 1}, 1),
              .v = constant({1, t, 1, 1}, 1)};
    in.g = constant({1, t, 1}, std::log(0.75));
    for (const Way& way : kWays) {
      const auto o = run<ops::DecayedLinear>(way, in, {{}, 2.0}).o.to_vector<double>();
      double worst = 0;
      for (Index i = 0; i < t; ++i) {
        worst =
            std::max(worst, std::abs(o[static_cast<std::size_t>(i)] -
                                     2 * (1 - std::pow(0.75, static_cast<double>(i + 1))) / 0.25));
      }
      CHECK(worst < way.tolerance);
    }
  }

  TEST_CASE("decayed_linear: a column of ones is the normaliser") {
    Draw draw("identities 2");
    const Index t = 70, dk = 4, dv = 3;
    const Tensor q = draw.uniform({1, t, 1, dk}, 0, 1), k = draw.uniform({1, t, 1, dk}, 0, 1);
    const Tensor v = draw.uniform({1, t, 1, dv}, -1, 1);
    Tensor wide = constant({1, t, 1, dv + 1}, 1);
    wide.slice(3, 0, dv).copy_(v);
    for (const Way& way : kWays) {
      const auto both = run<ops::DecayedLinear>(way, Linear{.q = q, .k = k, .v = wide});
      const auto z =
          run<ops::DecayedLinear>(way, Linear{.q = q, .k = k, .v = constant({1, t, 1, 1}, 1)});
      CHECK(difference(both.o.slice(3, dv, dv + 1), z.o) < way.tolerance * 100);
      // Positive features: every output is a mean of the values so far.
      const auto o = both.o.to_vector<double>(), values = v.to_vector<double>();
      std::vector<double> low(dv, 1), high(dv, -1);
      for (Index i = 0; i < t; ++i) {
        for (Index c = 0; c < dv; ++c) {
          const auto at = static_cast<std::size_t>(c);
          low[at] = std::min(low[at], values[static_cast<std::size_t>(i * dv + c)]);
          high[at] = std::max(high[at], values[static_cast<std::size_t>(i * dv + c)]);
          const double mean = o[static_cast<std::size_t>(i * (dv + 1) + c)] /
                              o[static_cast<std::size_t>(i * (dv + 1) + dv)];
          CHECK(mean >= low[at] - way.tolerance);
          CHECK(mean <= high[at] + way.tolerance);
        }
      }
    }
  }

  TEST_CASE("decayed_linear: equal channels are one decay, keys and values change places") {
    Draw draw("identities 3");
    const Index t = 75, d = 5;
    Linear scalar{.q = draw.normal({1, t, 2, d}),
                  .k = draw.normal({1, t, 2, d}),
                  .v = draw.normal({1, t, 2, d})};
    scalar.g = draw.uniform({1, t, 2}, -0.5, 0);
    Linear keys = scalar, values = scalar;
    keys.g = values.g = Tensor();
    keys.gk = scalar.g.unsqueeze(3).expand({1, t, 2, d}).contiguous();
    values.gv = keys.gk;
    for (const Way& way : kWays) {
      const auto a = run<ops::DecayedLinear>(way, scalar), b = run<ops::DecayedLinear>(way, keys),
                 c = run<ops::DecayedLinear>(way, values);
      CHECK(difference(a.o, b.o) < 10 * way.tolerance);
      CHECK(difference(a.sT, b.sT) < 10 * way.tolerance);
      CHECK(difference(a.o, c.o) < 10 * way.tolerance);
      // The state that values and keys make is the transpose, with the decays of the other side.
      Linear gated = keys, turned = keys;
      gated.gk = draw.uniform({1, t, 2, d}, -0.5, 0);
      gated.gv = draw.uniform({1, t, 2, d}, -0.5, 0);
      turned.k = gated.v;
      turned.v = gated.k;
      turned.gk = gated.gv;
      turned.gv = gated.gk;
      CHECK(difference(run<ops::DecayedLinear>(way, gated).sT.transpose(2, 3).contiguous(),
                       run<ops::DecayedLinear>(way, turned).sT) < 10 * way.tolerance);
    }
  }

  TEST_CASE("decayed_linear: a read before the write sees the token by its bonus alone") {
    Draw draw("identities 4");
    const Index t = 60, d = 4;
    Linear in{.q = draw.normal({1, t, 1, d}),
              .k = draw.normal({1, t, 1, d}),
              .v = draw.normal({1, t, 1, d})};
    in.gk = draw.uniform({1, t, 1, d}, -0.4, 0);
    for (const Way& way : kWays) {
      // A bonus of 0: the token before, read without the decay in between.
      Linear before = in, late = in;
      before.u = Tensor::zeros({1, d}, DType::kF64);
      late.q = in.q.slice(1, 1, t);
      for (Tensor* x : {&late.k, &late.v, &late.gk}) {
        *x = x->slice(1, 0, t - 1);
      }
      const auto read = run<ops::DecayedLinear>(way, before);
      CHECK(difference(read.o.slice(1, 1, t).contiguous(), run<ops::DecayedLinear>(way, late).o) <
            10 * way.tolerance);
      CHECK(difference(read.o.slice(1, 0, 1).contiguous(),
                       constant({1, 1, 1, d}, 0).to(way.type)) == 0);
      // Without decay, a bonus of 1 is the read after the write.
      Linear one = in, after = in;
      one.gk = after.gk = Tensor();
      one.u = constant({1, d}, 1);
      CHECK(difference(run<ops::DecayedLinear>(way, one).o, run<ops::DecayedLinear>(way, after).o) <
            100 * way.tolerance);
    }
  }

  TEST_CASE("decayed_linear: gates of -300 forget one channel, and that alone") {
    Draw draw("identities 5");
    const Index t = 70, cut = 37, d = 6;
    Linear in{.q = draw.normal({1, t, 1, d}),
              .k = draw.normal({1, t, 1, d}),
              .v = draw.normal({1, t, 1, 3})};
    in.gk = Tensor::zeros({1, t, 1, d}, DType::kF64);
    in.gk.data<double>()[cut * d + 2] = -300;
    Linear alone = in;  // the same without what channel 2 read before the cut
    alone.gk = Tensor::zeros({1, t, 1, d}, DType::kF64);
    alone.k = in.k.clone();
    for (Index i = 0; i < cut; ++i) {
      alone.k.data<double>()[i * d + 2] = 0;
    }
    for (const Way& way : kWays) {
      CHECK(difference(run<ops::DecayedLinear>(way, in).sT,
                       run<ops::DecayedLinear>(way, alone).sT) < 10 * way.tolerance);
    }
  }

  TEST_CASE("decayed_linear: the diagonal-plus-low-rank recurrence without its low rank") {
    // delta_rule in its general form, in f64 and token by token, is the oracle.
    Draw draw("identities 6");
    const Index t = 70, d = 5, e = 4;
    Delta general{.q = draw.normal({1, t, 2, d}),
                  .k = draw.normal({1, t, 2, d}),
                  .v = draw.normal({1, t, 4, e})};
    general.a = general.b = Tensor::zeros({1, t, 2, d}, DType::kF64);
    general.g = draw.uniform({1, t, 4}, -0.2, 0);
    general.gk = draw.uniform({1, t, 4, d}, -0.4, 0);
    general.s0 = draw.normal({1, 4, d, e});
    const auto want = run<ops::DeltaRule>(kWays[0], general, {{}, 0.7});
    const Linear in{.q = general.q,
                    .k = general.k,
                    .v = general.v,
                    .g = general.g,
                    .gk = general.gk,
                    .s0 = general.s0};
    for (const Way& way : kWays) {
      const auto got = run<ops::DecayedLinear>(way, in, {{}, 0.7});
      CHECK(difference(got.o.to(DType::kF64), want.o) < 10 * way.tolerance);
      CHECK(difference(got.sT.to(DType::kF64), want.sT) < 10 * way.tolerance);
    }
  }
}
