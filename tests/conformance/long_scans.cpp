// decayed_linear and delta_rule: the same bits on any number of threads, bf16 over many tokens,
// calls that do not fit.
#include <doctest/doctest.h>

#include <cmath>

#include "core/base/parallel_for.h"
#include "tests/support/draw.h"
#include "tests/support/recurrences.h"

using namespace ls;
using namespace ls::test;
using namespace ls::test::recurrences;

TEST_SUITE("conformance") {
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
    Linear channels = linear;  // keys are shared: their gradients are sums over heads
    channels.k = in.k.slice(2, 0, 1);
    channels.gk = draw.uniform({1, t, 2, d}, -0.1, 0);
    channels.u = draw.normal({1, d});
    ops::DeltaRule::Attrs inside;
    inside.qk_l2norm = true;
    const int before = num_threads();
    for (const Way& way : {kWays[3], kWays[4]}) {
      set_num_threads(1);
      const auto delta = run<ops::DeltaRule>(way, in, inside);
      const auto decayed = run<ops::DecayedLinear>(way, linear);
      const auto by_channel = run<ops::DecayedLinear>(way, channels);
      for (const int threads : {2, 3, 5}) {
        set_num_threads(threads);
        const auto a = run<ops::DeltaRule>(way, in, inside);
        const auto b = run<ops::DecayedLinear>(way, linear);
        const auto c = run<ops::DecayedLinear>(way, channels);
        CHECK(difference(c.o, by_channel.o) == 0);
        CHECK(difference(c.sT, by_channel.sT) == 0);
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
    CHECK(has(linear([&](Linear& x) {
                x.k = z({1, 6, 3, 4});
              }),
              "2 value heads are not a multiple of 3 key heads"));
    CHECK(has(linear([&](Linear& x) {
                x.u = z({3, 4});
              }),
              "2 value heads are not a multiple of 3 heads of u"));
    CHECK(has(linear([&](Linear& x) { x.gk = z({1, 6, 2, 3}); }), "argument gk[B,T,H,Dk]"));
    CHECK(has(linear([&](Linear& x) { x.s0 = z({2, 2, 4, 3}); }), "s0 has 2 entries for 1 rows"));
    CHECK(has(linear([&](Linear& x) { x.g = z({1, 5, 2}); }), "argument g[B,T,H]"));
    CHECK(
        has(linear([&](Linear& x) {
              x.offsets = Tensor::from(std::vector<std::int64_t>{0, 4});
            }),
            "offsets ascend from 0 to 6 and hold the end of every row of 6 tokens: the value 4 at "
            "position 1"));
    CHECK(has(linear([&](Linear& x) {
                x.offsets = Tensor::from(std::vector<std::int64_t>{0, 4, 3, 6});
              }),
              "the value 3 at position 2"));
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
    CHECK(has(delta([&](Delta& x) { x.beta = Tensor(); }), "either beta, or a and b"));
    CHECK(has(delta([&](Delta& x) { x.a = z({2, 6, 2, 4}); }), "beta a given; give either beta"));
    CHECK(has(delta([&](Delta& x) { x.a = x.b = z({2, 6, 2, 4}); }), "beta a b given"));
    CHECK(has(delta([&](Delta& x) {
                x.v = z({2, 6, 3, 3});
                x.beta = z({2, 6, 3});
              }),
              "3 value heads are not a multiple of 2"));
    CHECK(has(delta([&](Delta& x) {
                x.offsets = Tensor::from(std::vector<std::int64_t>{0, 4, 8, 12});
              }),
              "the value 8 at position 2"));
    CHECK(delta([&](Delta& x) {
            x.offsets = Tensor::from(std::vector<std::int64_t>{0, 4, 6, 12, 12});
          }) == "accepted");
  }
}
