// What the recurrences of decayed_linear and delta_rule must do by their algebra: closed forms,
// hand-set weights, one mixer reduced to another. In every form, f64 and f32.
#include <doctest/doctest.h>

#include <cmath>

#include "core/base/parallel_for.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/l2_norm/l2_norm.h"
#include "tests/support/draw.h"

using namespace ls;
using namespace ls::test;

namespace {

using Linear = ops::DecayedLinear::In<Tensor>;
using Delta = ops::DeltaRule::In<Tensor>;

/// Largest difference; infinite where shapes differ or something is not a number.
double difference(const Tensor& a, const Tensor& b) {
  if (!(a.shape() == b.shape())) {
    return INFINITY;
  }
  const auto x = a.to_vector<double>(), y = b.to_vector<double>();
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double d = std::abs(x[i] - y[i]);
    if (!(d <= worst)) {
      worst = std::isnan(d) ? INFINITY : d;
    }
  }
  return worst;
}

struct Way {
  DType type;
  Form form;
  double tolerance;
};
const Way kWays[] = {{DType::kF64, Form::kRecurrent, 1e-12}, {DType::kF64, Form::kChunk, 1e-12},
                     {DType::kF64, Form::kParallel, 1e-12},  {DType::kF32, Form::kRecurrent, 2e-5},
                     {DType::kF32, Form::kChunk, 2e-5},      {DType::kF32, Form::kParallel, 2e-5}};

template <class Op, class In>
typename Op::template Out<Tensor> run(const Way& way, const In& in, typename Op::Attrs attrs = {}) {
  attrs.form = way.form;
  std::vector<Tensor> list = ls::detail::spread_members<Tensor>(in);
  for (Tensor& t : list) {
    t = t.defined() && is_float(t.dtype()) ? t.to(way.type) : t;
  }
  return call_op<Op>(ls::detail::gather_members<In>(std::span<const Tensor>(list)), attrs);
}

Tensor constant(const Shape& shape, double x) {
  return Tensor::full(shape, DType::kF64, x);
}

/// Rows of the unit matrix, [1,n,1,n]: n orthonormal keys.
Tensor unit_keys(Index n) {
  Tensor k = Tensor::zeros({1, n, 1, n}, DType::kF64);
  for (Index i = 0; i < n; ++i) {
    k.data<double>()[i * n + i] = 1;
  }
  return k;
}

}  // namespace

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

  TEST_CASE("delta_rule: grouped values, beta per channel, normalisation inside") {
    Draw draw("identities 8");
    const Index t = 40;
    Delta in{.q = draw.normal({2, t, 2, 4}),
             .k = draw.normal({2, t, 2, 4}),
             .v = draw.normal({2, t, 4, 3})};
    in.beta = draw.uniform({2, t, 4}, 0, 1);
    in.g = draw.uniform({2, t, 4}, -0.2, 0);
    ops::DeltaRule::Attrs inside;
    inside.qk_l2norm = true;
    Delta repeated = in, channels = in, outside = in;
    const auto both = [&](const Tensor& x) {
      return x.unsqueeze(3).expand({2, t, 2, 2, 4}).reshape({2, t, 4, 4});
    };
    repeated.q = both(in.q);
    repeated.k = both(in.k);
    channels.beta = Tensor();
    channels.beta_v = in.beta.unsqueeze(3).expand({2, t, 4, 3});
    outside.q = call_op<ops::L2Norm>({.x = in.q}, {.eps = 1e-6}).y;
    outside.k = call_op<ops::L2Norm>({.x = in.k}, {.eps = 1e-6}).y;
    for (const Way& way : kWays) {
      const auto want = run<ops::DeltaRule>(way, in, inside);
      for (const auto& got :
           {run<ops::DeltaRule>(way, repeated, inside), run<ops::DeltaRule>(way, channels, inside),
            run<ops::DeltaRule>(way, outside)}) {
        CHECK(difference(got.o, want.o) < way.tolerance);
        CHECK(difference(got.sT, want.sT) < way.tolerance);
      }
    }
  }

  TEST_CASE("the number of threads changes no bit") {
    Draw draw("identities 10");
    const Index t = 900, d = 64;
    Delta in{.q = draw.normal({1, t, 2, d}),
             .k = draw.normal({1, t, 2, d}),
             .v = draw.normal({1, t, 2, d})};
    in.beta = draw.uniform({1, t, 2}, 0, 1);
    in.g = draw.uniform({1, t, 2}, -0.1, 0);
    in.offsets = Tensor::from(std::vector<std::int64_t>{0, 0, 700, 701, 701, 880, 900, 900});
    Linear linear{.q = in.q, .k = in.k, .v = in.v, .g = in.g};
    linear.offsets = in.offsets;
    ops::DeltaRule::Attrs inside;
    inside.qk_l2norm = true;
    const int before = num_threads();
    for (const Way& way : {kWays[3], kWays[4]}) {
      set_num_threads(1);
      const auto delta = run<ops::DeltaRule>(way, in, inside);
      const auto decayed = run<ops::DecayedLinear>(way, linear);
      for (const int threads : {2, 3, 5}) {
        set_num_threads(threads);
        const auto a = run<ops::DeltaRule>(way, in, inside);
        const auto b = run<ops::DecayedLinear>(way, linear);
        CHECK(difference(a.o, delta.o) == 0);
        CHECK(difference(a.sT, delta.sT) == 0);
        CHECK(difference(b.o, decayed.o) == 0);
        CHECK(difference(b.sT, decayed.sT) == 0);
      }
    }
    set_num_threads(before);
  }

  TEST_CASE("scans in bf16 over 65536 tokens stay near f64") {
    // Inputs are rounded once, states are f32: the error does not grow with the length.
    Draw draw("identities 9");
    const Index t = 65536, d = 4;
    const auto rounded = [](const Tensor& x) { return x.to(DType::kBF16); };
    const Tensor q = rounded(draw.normal({1, t, 1, d})), v = rounded(draw.normal({1, t, 1, d}));
    const Tensor k = rounded(draw.unit_rows({1, t, 1, d})),
                 beta = rounded(draw.uniform({1, t, 1}, 0.2, 0.9));
    const Tensor none = Tensor::full({1, t, 1}, DType::kF32, 0),
                 most = Tensor::full({1, t, 1}, DType::kF32, -16);
    Tensor turns = none.clone();
    for (Index i = 0; i < t; i += 2) {
      turns.data<float>()[i] = -16;
    }
    const auto relative = [](const Tensor& got, const Tensor& want) {
      const auto x = got.to_vector<double>(), y = want.to_vector<double>();
      double error = 0, size = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        error += (x[i] - y[i]) * (x[i] - y[i]);
        size += y[i] * y[i];
      }
      return std::sqrt(error / size);
    };
    const auto wide = [](const Tensor& x) { return x.to(DType::kF64); };
    for (const Tensor& g : {none, most, turns}) {
      const auto a = call_op<ops::DeltaRule>({.q = q, .k = k, .v = v, .beta = beta, .g = g});
      const auto b = call_op<ops::DeltaRule>(
          {.q = wide(q), .k = wide(k), .v = wide(v), .beta = wide(beta), .g = wide(g)});
      CHECK(a.o.dtype() == DType::kBF16);
      CHECK(a.sT.dtype() == DType::kF32);
      CHECK(relative(a.o, b.o) < 3e-3);
      CHECK(relative(a.sT, b.sT) < 1e-4);
      const auto c = call_op<ops::DecayedLinear>({.q = q, .k = k, .v = v, .g = g});
      const auto e =
          call_op<ops::DecayedLinear>({.q = wide(q), .k = wide(k), .v = wide(v), .g = wide(g)});
      CHECK(relative(c.o, e.o) < 3e-3);
      CHECK(relative(c.sT, e.sT) < 1e-4);
    }
  }

  TEST_CASE("decayed_linear and delta_rule refuse calls that do not fit") {
    const auto z = [](const Shape& s) { return Tensor::zeros(s, DType::kF32); };
    const auto message = [](auto&& call) -> std::string {
      try {
        call();
      } catch (const Error& e) {
        return e.kind() == ErrorKind::kShape ? e.message() : "another kind: " + e.message();
      }
      return "accepted";
    };
    const auto has = [](const std::string& text, const char* part) {
      return text.find(part) != std::string::npos;
    };
    const Linear l{.q = z({1, 6, 2, 4}), .k = z({1, 6, 2, 4}), .v = z({1, 6, 2, 3})};
    const auto linear = [&](auto&& change) {
      Linear in = l;
      change(in);
      return message([&] { call_op<ops::DecayedLinear>(in); });
    };
    CHECK(linear([](Linear&) {}) == "accepted");
    CHECK(has(linear([&](Linear& x) {
                x.q = z({1, 6, 3, 4});
              }),
              "3 query heads are not a multiple of 2"));
    CHECK(has(linear([&](Linear& x) {
                x.g = z({1, 6, 2});
                x.decay = z({2});
              }),
              "g or decay, not both"));
    CHECK(has(linear([&](Linear& x) { x.s0 = z({2, 2, 4, 3}); }), "s0 has 2 rows for 1 sequences"));
    CHECK(has(linear([&](Linear& x) { x.g = z({1, 5, 2}); }), "argument g[B,T,H]"));
    CHECK(has(linear([&](Linear& x) {
                x.offsets = Tensor::from(std::vector<std::int64_t>{0, 4});
              }),
              "offsets run from 0 to 4, expected from 0 to 6"));
    CHECK(has(linear([&](Linear& x) {
                x.offsets = Tensor::from(std::vector<std::int64_t>{0, 4, 3, 6});
              }),
              "offset 1 is 4 and the next one 3"));
    const Delta d{
        .q = z({2, 6, 2, 4}), .k = z({2, 6, 2, 4}), .v = z({2, 6, 2, 3}), .beta = z({2, 6, 2})};
    const auto delta = [&](auto&& change) {
      Delta in = d;
      change(in);
      return message([&] { call_op<ops::DeltaRule>(in); });
    };
    CHECK(delta([](Delta&) {}) == "accepted");
    const Linear endless{.q = z({1, 9000, 1, 1}), .k = z({1, 9000, 1, 1}), .v = z({1, 9000, 1, 1})};
    CHECK(has(message([&] { call_op<ops::DecayedLinear>(endless, {{Form::kParallel}}); }),
              "9000 tokens are more than 8192; use form chunk"));
    CHECK(has(delta([&](Delta& x) { x.beta = Tensor(); }), "either beta or beta_v"));
    CHECK(has(delta([&](Delta& x) { x.beta_v = z({2, 6, 2, 3}); }), "either beta or beta_v"));
    CHECK(has(delta([&](Delta& x) {
                x.v = z({2, 6, 3, 3});
                x.beta = z({2, 6, 3});
              }),
              "3 value heads are not a multiple of 2"));
    CHECK(has(delta([&](Delta& x) {
                x.offsets = Tensor::from(std::vector<std::int64_t>{0, 6});
              }),
              "packed documents need one batch row"));
  }
}
