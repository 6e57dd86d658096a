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
}
