// Gates that mixers share: first values, names and decay of parameters, values by their formulas.
#include "layers/mixers/gates.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "autograd/tape.h"
#include "tests/support/draw.h"

namespace ls::layers {
namespace {

double softplus(double x) {
  return std::log1p(std::exp(x));
}

TEST_SUITE("unit") {
  TEST_CASE("gates: Mamba's decay") {
    ag::ParameterSet set;
    const Scope scope(set, 5, DType::kF64, "mixer");
    constexpr Index kHeads = 400;
    const MambaDecay decay(scope, kHeads, 1, 16);
    test::Draw draw("mamba decay");
    const Tensor x = draw.normal({2, 3, kHeads});
    const Tensor g = decay(ag::Var(x)).value(), steps = decay.step(ag::Var(x)).value();
    REQUIRE(set.items().size() == 2);
    const Tensor a_log = set.find("mixer.a_log")->var.value(),
                 bias = set.find("mixer.dt_bias")->var.value();
    CHECK_FALSE(set.find("mixer.a_log")->decay);
    CHECK_FALSE(set.find("mixer.dt_bias")->decay);
    double smallest = 16, largest = 1, logs = 0;
    for (Index h = 0; h < kHeads; ++h) {
      const double a = std::exp(a_log.slow_at(h)), step = softplus(bias.slow_at(h));
      smallest = std::min(smallest, a);
      largest = std::max(largest, a);
      logs += std::log10(step) / kHeads;
      CHECK((step > 0.00099 && step < 0.1001));
      CHECK(g.slow_at(h) == doctest::Approx(-a * softplus(x.slow_at(h) + bias.slow_at(h))));
      CHECK(steps.slow_at(h) == doctest::Approx(softplus(x.slow_at(h) + bias.slow_at(h))));
    }
    CHECK((smallest > 1 - 1e-9 && smallest < 1.2));
    CHECK((largest < 16 + 1e-9 && largest > 15.8));
    CHECK(std::abs(logs + 2) < 0.1);  // log-uniform: the mean of the logs is in the middle
  }

  TEST_CASE("gates: limited steps are clamped, and those outside have no gradient") {
    ag::ParameterSet set;
    const Scope scope(set, 5, DType::kF64, "mixer");
    constexpr Index kHeads = 5;
    constexpr double kLow = 0.01, kHigh = 0.5;
    MambaDecay decay(scope, kHeads, 1, 16);
    decay.limit_steps(kLow, kHigh);
    const Tensor a_log = set.find("mixer.a_log")->var.value();
    Tensor bias = set.find("mixer.dt_bias")->var.value();
    bias.zero_();
    const Tensor logits = Tensor::from(std::vector<double>{-40, -5, -2, -0.5, 30}, {1, 1, kHeads});
    const ag::Var x = ag::Var::leaf(logits);
    ag::Tape tape;
    const ag::Var g = decay(x);
    tape.backward(g, Tensor::full(g.shape(), DType::kF64, 1));
    for (Index h = 0; h < kHeads; ++h) {
      const double free = softplus(x.value().slow_at(h)), a = std::exp(a_log.slow_at(h));
      CHECK(g.value().slow_at(h) == doctest::Approx(-a * std::clamp(free, kLow, kHigh)));
      const bool inside = free > kLow && free < kHigh;
      CHECK(inside == (h == 2 || h == 3));
      CHECK(x.grad().slow_at(h) ==
            doctest::Approx(inside ? -a / (1 + std::exp(-x.value().slow_at(h))) : 0));
    }
  }

  TEST_CASE("gates: a rate drawn near 0 has a finite log") {
    std::vector<double> values(2000);
    Rng rng(3, "rates");
    log_rates(0, 1e-5).fill(rng, values);
    for (const double v : values) {
      CHECK(v == std::log(1e-4));
    }
  }

  TEST_CASE("gates: the log of a sigmoid is taken in the acc type") {
    const Tensor x = Tensor::from(std::vector<float>{-300.f, -2.f, 0.f, 40.f}).to(DType::kBF16);
    const Tensor g = log_sigmoid_decay(ag::Var(x), 16).value();
    CHECK(g.dtype() == DType::kF32);
    for (Index i = 0; i < 4; ++i) {
      CHECK(g.slow_at(i) ==
            doctest::Approx(-std::log1p(std::exp(-x.slow_at(i))) / 16).epsilon(1e-6));
    }
  }

  TEST_CASE("gates: a low-rank map is its two products") {
    ag::ParameterSet set;
    const Scope scope(set, 5, DType::kF64, "gate");
    const LowRank map(scope, 5, 2, 7, Init::normal(0.5),
                      {.activation = ops::Act::kTanh, .bias = true, .weight = {.decay = false}});
    test::Draw draw("low rank");
    const Tensor x = draw.normal({3, 5});
    const Tensor y = map(ag::Var(x)).value();
    const auto value = [&](const char* name) {
      REQUIRE_MESSAGE(set.find(name), name);
      CHECK_FALSE(set.find(name)->decay);
      return set.find(name)->var.value();
    };
    const Tensor down = value("gate.down.weight"), up = value("gate.up.weight");
    CHECK(value("gate.up.bias").shape() == Shape{7});
    for (Index r = 0; r < 3; ++r) {
      for (Index o = 0; o < 7; ++o) {
        double sum = 0;
        for (Index m = 0; m < 2; ++m) {
          double inner = 0;
          for (Index i = 0; i < 5; ++i) {
            inner += down.slow_at(m * 5 + i) * x.slow_at(r * 5 + i);
          }
          sum += up.slow_at(o * 2 + m) * std::tanh(inner);
        }
        CHECK(y.slow_at(r * 7 + o) == doctest::Approx(sum));
      }
    }
  }
}

}  // namespace
}  // namespace ls::layers
