// What the recurrence of delta_rule must do by its algebra: closed forms, hand-set weights, one
// mixer reduced to another. In every form, f64 and f32.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "core/base/rng.h"
#include "core/ops/l2_norm/l2_norm.h"
#include "tests/support/draw.h"
#include "tests/support/recurrences.h"

using namespace ls;
using namespace ls::test;
using namespace ls::test::recurrences;

TEST_SUITE("conformance") {
  TEST_CASE("delta_rule: parity with beta 2") {
    // One key, no writes, S = k v^T: every 1 reflects the state, every 0 leaves it.
    const Index t = 1500;
    Rng bits(3, "parity");
    Delta in{.q = constant({1, t, 1, 2}, 0),
             .k = constant({1, t, 1, 2}, 0),
             .v = constant({1, t, 1, 1}, 0)};
    in.q.select(3, 0).fill_(1);
    in.k.select(3, 0).fill_(1);
    in.beta = constant({1, t, 1}, 0);
    in.s0 = Tensor::from(std::vector<double>{1, 0}, {1, 1, 2, 1});
    std::vector<double> sign;
    for (Index i = 0; i < t; ++i) {
      const bool one = bits.bernoulli(0.5);
      in.beta.data<double>()[i] = one ? 2 : 0;
      sign.push_back((sign.empty() ? 1.0 : sign.back()) * (one ? -1 : 1));
    }
    for (const Way& way : kWays) {
      // Small whole numbers: exact in every form.
      CHECK(difference(run<ops::DeltaRule>(way, in).o, Tensor::from(sign, {1, t, 1, 1})) == 0);
    }
  }

  TEST_CASE("delta_rule: two reflections turn by 120 degrees, three turns are none") {
    const Index turns = 999, t = 2 * turns;
    Delta in{.q = constant({1, t, 1, 2}, 0),
             .k = constant({1, t, 1, 2}, 0),
             .v = constant({1, t, 1, 2}, 0)};
    in.q.select(3, 0).fill_(1);
    for (Index i = 0; i < t; ++i) {
      const double angle = i % 2 == 0 ? 0.0 : std::acos(-1.0) / 3;
      in.k.data<double>()[2 * i] = std::cos(angle);
      in.k.data<double>()[2 * i + 1] = std::sin(angle);
    }
    in.beta = constant({1, t, 1}, 2);
    in.s0 = Tensor::from(std::vector<double>{1, 0, 0, 1}, {1, 1, 2, 2});
    for (const Way& way : kWays) {
      const auto out = run<ops::DeltaRule>(way, in);
      CHECK(difference(out.sT, in.s0) < way.tolerance * 10);
      CHECK(std::abs(out.o.slow_at(3 * 2) + 0.5) <
            way.tolerance);  // cos 120 degrees after the first turn
    }
  }

  TEST_CASE(
      "delta_rule: the last write to a key wins, and reading what was just written is exact") {
    Draw draw("identities 3");
    const Index t = 80, n = 5;
    Delta in{.q = constant({1, t, 1, n}, 0),
             .k = constant({1, t, 1, n}, 0),
             .v = draw.normal({1, t, 1, 3})};
    in.beta = constant({1, t, 1}, 1);
    Rng keys(4, "keys");
    std::vector<Index> last(n, -1), read;
    for (Index i = 0; i < t; ++i) {
      const Index written = i < n ? i : keys.below(n), asked = keys.below(std::min(n, i + 1));
      in.k.data<double>()[i * n + written] = 1;
      last[static_cast<std::size_t>(written)] = i;
      in.q.data<double>()[i * n + asked] = 1;
      read.push_back(last[static_cast<std::size_t>(asked)]);
    }
    Tensor want = Tensor::empty({1, t, 1, 3}, DType::kF64);
    for (Index i = 0; i < t; ++i) {
      want.slice(1, i, i + 1)
          .copy_(in.v.slice(1, read[static_cast<std::size_t>(i)],
                            read[static_cast<std::size_t>(i)] + 1));
    }
    Delta any = in;  // any unit keys, any decay: q = k with beta = 1 returns v
    any.k = draw.unit_rows({1, t, 1, n});
    any.q = any.k;
    any.g = draw.uniform({1, t, 1}, -2, 0);
    any.s0 = draw.normal({1, 1, n, 3});
    for (const Way& way : kWays) {
      CHECK(difference(run<ops::DeltaRule>(way, in).o, want) < way.tolerance);
      CHECK(difference(run<ops::DeltaRule>(way, any).o, any.v) < way.tolerance);
    }
  }

  TEST_CASE("delta_rule: writing the same again changes nothing") {
    Draw draw("identities 4");
    const Index t = 40, n = 6;
    Delta once{.q = draw.normal({1, t, 1, n}),
               .k = draw.unit_rows({1, t, 1, n}),
               .v = draw.normal({1, t, 1, 3})};
    once.beta = constant({1, t, 1}, 1);
    once.s0 = draw.normal({1, 1, n, 3});
    const auto twice_rows = [&](const Tensor& x) {
      Shape shape = x.shape();
      shape[1] *= 2;
      return x.reshape({1, t, 1, shape.numel() / (2 * t)})
          .expand({1, t, 2, shape.numel() / (2 * t)})
          .reshape(shape);
    };
    Delta twice{.q = twice_rows(once.q), .k = twice_rows(once.k), .v = twice_rows(once.v)};
    twice.beta = constant({1, 2 * t, 1}, 1);
    twice.s0 = once.s0;
    for (const Way& way : kWays) {
      const auto a = run<ops::DeltaRule>(way, once), b = run<ops::DeltaRule>(way, twice);
      CHECK(difference(twice_rows(a.o), b.o) < way.tolerance * 10);
      CHECK(difference(a.sT, b.sT) < way.tolerance * 10);
    }
  }

  TEST_CASE("delta_rule: equal keys, the closed form of the inverse") {
    // k S_t approaches v as 1 - (1 - beta)^t.
    const Index t = 70;
    for (const double beta : {0.1, 0.9, 1.7, 2.0}) {
      Delta in{.q = constant({1, t, 1, 4}, 0.5),
               .k = constant({1, t, 1, 4}, 0.5),
               .v = constant({1, t, 1, 1}, 1)};
      in.beta = constant({1, t, 1}, beta);
      std::vector<double> want;
      for (Index i = 0; i < t; ++i) {
        want.push_back(1 - std::pow(1 - beta, static_cast<double>(i + 1)));
      }
      for (const Way& way : kWays) {
        CHECK(difference(run<ops::DeltaRule>(way, in).o, Tensor::from(want, {1, t, 1, 1})) <
              way.tolerance);
      }
    }
  }

  TEST_CASE("delta_rule: beta 0 only decays, gate 0 is no gate") {
    Draw draw("identities 5");
    const Index t = 50;
    Delta in{.q = draw.normal({1, t, 1, 4}),
             .k = draw.unit_rows({1, t, 1, 4}),
             .v = draw.normal({1, t, 1, 3})};
    in.beta = constant({1, t, 1}, 0);
    in.g = draw.uniform({1, t, 1}, -0.2, 0);
    in.s0 = draw.normal({1, 1, 4, 3});
    Linear decayed{.q = in.q, .k = constant({1, t, 1, 4}, 0), .v = in.v};
    decayed.g = in.g;
    decayed.s0 = in.s0;
    Delta open = in;
    open.beta = draw.uniform({1, t, 1}, 0, 1);
    open.g = Tensor();
    Delta zero = open;
    zero.g = constant({1, t, 1}, 0);
    for (const Way& way : kWays) {
      const auto a = run<ops::DeltaRule>(way, in);
      const auto b = run<ops::DecayedLinear>(way, decayed);
      CHECK(difference(a.o, b.o) < way.tolerance);
      CHECK(difference(a.sT, b.sT) < way.tolerance);
      CHECK(difference(run<ops::DeltaRule>(way, open).o, run<ops::DeltaRule>(way, zero).o) <
            way.tolerance);
    }
  }

  TEST_CASE("a decay of exactly 0 forgets like a new document") {
    Draw draw("identities 11");
    const Index t = 60;
    Delta in{.q = draw.normal({1, t, 1, 4}),
             .k = draw.unit_rows({1, t, 1, 4}),
             .v = draw.normal({1, t, 1, 3})};
    in.beta = draw.uniform({1, t, 1}, 0, 1);
    in.g = draw.uniform({1, t, 1}, -0.2, 0);
    Delta packed = in;
    in.g = in.g.clone();
    for (const Index at : {5, 6, 40}) {
      in.g.data<double>()[at] = -INFINITY;
    }
    packed.offsets = Tensor::from(std::vector<std::int64_t>{0, 5, 6, 40, t});
    const Linear linear{.q = in.q, .k = in.k, .v = in.v, .g = in.g};
    Linear separate = linear;
    separate.g = packed.g;
    separate.offsets = packed.offsets;
    for (const Way& way : kWays) {
      CHECK(difference(run<ops::DeltaRule>(way, in).o, run<ops::DeltaRule>(way, packed).o) <
            way.tolerance);
      CHECK(difference(run<ops::DecayedLinear>(way, linear).o,
                       run<ops::DecayedLinear>(way, separate).o) < way.tolerance * 10);
    }
  }

  TEST_CASE("delta_rule: orthogonal keys erase nothing: linear attention of beta v") {
    Draw draw("identities 6");
    const Index n = 48;
    Delta in{.q = draw.normal({1, n, 1, n}), .k = unit_keys(n), .v = draw.normal({1, n, 1, 5})};
    in.beta = draw.uniform({1, n, 1}, 0, 2);
    in.g = draw.uniform({1, n, 1}, -0.1, 0);
    Linear linear{.q = in.q, .k = in.k, .v = in.v.clone()};
    for (Index i = 0; i < n; ++i) {
      linear.v.slice(1, i, i + 1).mul_(in.beta.slow_at(i));
    }
    linear.g = in.g;
    for (const Way& way : kWays) {
      const auto a = run<ops::DeltaRule>(way, in);
      const auto b = run<ops::DecayedLinear>(way, linear);
      CHECK(difference(a.o, b.o) < way.tolerance * 10);
      CHECK(difference(a.sT, b.sT) < way.tolerance);
    }
  }

  TEST_CASE("delta_rule: unit keys never make the state larger; beta 2 keeps its size") {
    Draw draw("identities 7");
    const Index t = 300;
    Delta in{.q = draw.normal({1, t, 1, 6}),
             .k = draw.unit_rows({1, t, 1, 6}),
             .v = constant({1, t, 1, 4}, 0)};
    in.s0 = draw.normal({1, 1, 6, 4});
    const auto norm = [](const Tensor& s) {
      double sum = 0;
      for (const double x : s.to_vector<double>()) {
        sum += x * x;
      }
      return std::sqrt(sum);
    };
    for (const Way& way : kWays) {
      in.beta = draw.uniform({1, t, 1}, 0, 2);
      CHECK(norm(run<ops::DeltaRule>(way, in).sT) <= norm(in.s0));
      in.beta = constant({1, t, 1}, 2);
      CHECK(std::abs(norm(run<ops::DeltaRule>(way, in).sT) / norm(in.s0) - 1) < way.tolerance);
    }
  }

  TEST_CASE("delta_rule: grouped values, normalisation inside") {
    Draw draw("identities 8");
    const Index t = 40;
    Delta in{.q = draw.normal({2, t, 2, 4}),
             .k = draw.normal({2, t, 2, 4}),
             .v = draw.normal({2, t, 4, 3})};
    in.beta = draw.uniform({2, t, 4}, 0, 1);
    in.g = draw.uniform({2, t, 4}, -0.2, 0);
    ops::DeltaRule::Attrs inside;
    inside.qk_l2norm = true;
    Delta repeated = in, outside = in;
    const auto both = [&](const Tensor& x) {
      return x.unsqueeze(3).expand({2, t, 2, 2, 4}).reshape({2, t, 4, 4});
    };
    repeated.q = both(in.q);
    repeated.k = both(in.k);
    outside.q = call_op<ops::L2Norm>({.x = in.q}, {.eps = 1e-6}).y;
    outside.k = call_op<ops::L2Norm>({.x = in.k}, {.eps = 1e-6}).y;
    for (const Way& way : kWays) {
      const auto want = run<ops::DeltaRule>(way, in, inside);
      for (const auto& got :
           {run<ops::DeltaRule>(way, repeated, inside), run<ops::DeltaRule>(way, outside)}) {
        CHECK(difference(got.o, want.o) < way.tolerance);
        CHECK(difference(got.sT, want.sT) < way.tolerance);
      }
    }
  }

  TEST_CASE("delta_rule: a gate by channel that is one gate; low rank along k") {
    Draw draw("identities 12");
    const Index t = 70, dk = 5;
    Delta in{.q = draw.normal({2, t, 2, dk}),
             .k = draw.unit_rows({2, t, 2, dk}),
             .v = draw.normal({2, t, 4, 3})};
    in.beta = draw.uniform({2, t, 4}, 0, 1);
    in.g = draw.uniform({2, t, 4}, -0.4, 0);
    in.s0 = draw.normal({2, 4, dk, 3});
    Delta channel = in;
    channel.g = Tensor();
    channel.gk = in.g.unsqueeze(3).expand({2, t, 4, dk}).contiguous();
    // One head a value head, so that a may have its beta and gate.
    Delta low = channel;
    const auto both = [&](const Tensor& x) {
      return x.unsqueeze(3).expand({2, t, 2, 2, dk}).reshape({2, t, 4, dk});
    };
    low.q = both(in.q);
    low.k = both(in.k).contiguous();
    low.a = low.k.clone();
    low.b = low.k.clone();
    low.v = in.v.clone();
    low.beta = Tensor();
    for (Index row = 0; row < 2 * t * 4; ++row) {
      const double beta = in.beta.slow_at(row), decay = std::exp(in.g.slow_at(row));
      for (Index i = 0; i < dk; ++i) {
        low.a.data<double>()[row * dk + i] *= -beta * decay;
      }
      for (Index c = 0; c < 3; ++c) {
        low.v.data<double>()[row * 3 + c] *= beta;
      }
    }
    for (const Way& way : kWays) {
      const auto want = run<ops::DeltaRule>(way, in);
      for (const auto& got : {run<ops::DeltaRule>(way, channel), run<ops::DeltaRule>(way, low)}) {
        CHECK(difference(got.o, want.o) < way.tolerance);
        CHECK(difference(got.sT, want.sT) < way.tolerance);
      }
    }
  }
}
