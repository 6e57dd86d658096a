#include "core/backend/cpu/simd_math.h"

#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace ls {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const float kNaN = std::numeric_limits<float>::quiet_NaN();

/// Every 49999th float bit pattern (both signs, all exponents) and a fine grid around zero.
std::vector<float> inputs(double low, double high) {
  std::vector<float> x;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 49999) {
    x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  }
  for (int i = -40000; i <= 40000; ++i) {
    x.push_back(static_cast<float>(i) * 0.00033f);
    x.push_back(static_cast<float>(i) * 0.0031f);
  }
  std::erase_if(x, [&](float v) { return !(v >= low && v <= high); });
  return x;
}

double ulp(double value) {
  const float f = std::fabs(static_cast<float>(value));
  return static_cast<double>(std::nextafter(f, kInf)) - f;
}

/// Worst error over the inputs, in ulp or (`absolute`) relative to max(1, |x|). Where double rounds
/// to infinity or is NaN the float must be the same.
template <class F, class D>
double worst_error(F&& f, D&& reference, double low, double high, bool absolute = false) {
  const std::vector<float> x = inputs(low, high);
  std::vector<float> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    y[i] = f(x[i]);
  }
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double want = reference(static_cast<double>(x[i]));
    if (std::isnan(want) ? std::isnan(y[i]) : static_cast<double>(y[i]) == want) {
      continue;
    }
    if (std::isinf(static_cast<float>(want)) && static_cast<float>(want) == y[i]) {
      continue;
    }
    const double scale = absolute ? std::max(1.0, std::fabs(static_cast<double>(x[i]))) : ulp(want);
    const double error = std::fabs(y[i] - want) / scale;
    worst = error <= worst ? worst : (std::isnan(error) ? double{kInf} : error);
  }
  return worst;
}

#define LS_ULP(name, low, high)                                                                   \
  worst_error([](float x) { return simd::name(x); }, [](double x) { return simd::name(x); }, low, \
              high)
#define LS_ABSOLUTE(name, low, high)                                                              \
  worst_error([](float x) { return simd::name(x); }, [](double x) { return simd::name(x); }, low, \
              high, true)

TEST_SUITE("unit") {
  TEST_CASE("simd_math: errors over all magnitudes") {
    CHECK(LS_ULP(exp, -kInf, kInf) < 1.2);
    CHECK(LS_ULP(log, -kInf, kInf) < 1);
    CHECK(LS_ULP(log1p, -kInf, kInf) < 1.2);
    CHECK(LS_ULP(tanh, -kInf, kInf) < 2);
    CHECK(LS_ULP(erf, -kInf, kInf) < 3);
    CHECK(LS_ULP(softplus, -kInf, kInf) < 2);
    CHECK(LS_ULP(sigmoid, -kInf, kInf) < 3);
    CHECK(LS_ULP(log_sigmoid, -kInf, kInf) < 2);
    CHECK(LS_ULP(silu, -87, kInf) < 4);
    CHECK(LS_ULP(gelu, -3, kInf) < 8);
    CHECK(LS_ULP(gelu_tanh, -2, kInf) < 16);
    // Zero crossings or cancellation: no relative precision to speak of.
    CHECK(LS_ABSOLUTE(silu, -1e30, kInf) < 2e-7);
    CHECK(LS_ABSOLUTE(silu_grad, -1e30, 1e30) < 3e-7);
    CHECK(LS_ABSOLUTE(gelu, -1e30, kInf) < 2e-7);
    CHECK(LS_ABSOLUTE(gelu_grad, -1e30, 1e30) < 3e-7);
    CHECK(LS_ABSOLUTE(gelu_tanh, -1e30, kInf) < 2e-7);
    CHECK(LS_ABSOLUTE(gelu_tanh_grad, -1e30, 1e30) < 6e-7);
  }

  TEST_CASE("simd_math: limits, zeros and NaN") {
    CHECK(simd::exp(kInf) == kInf);
    CHECK(simd::exp(-kInf) == 0.0f);
    CHECK(simd::exp(0.0f) == 1.0f);
    CHECK(simd::exp(89.0f) == kInf);
    CHECK(simd::exp(88.7f) < kInf);
    CHECK(simd::exp(-103.0f) > 0.0f);
    CHECK(simd::log(0.0f) == -kInf);
    CHECK(simd::log(kInf) == kInf);
    CHECK(simd::log(1.0f) == 0.0f);
    CHECK(std::isnan(simd::log(-1.0f)));
    CHECK(simd::log1p(-1.0f) == -kInf);
    CHECK(simd::log1p(kInf) == kInf);
    CHECK(std::isnan(simd::log1p(-1.5f)));
    CHECK(simd::softplus(kInf) == kInf);
    CHECK(simd::softplus(-kInf) == 0.0f);
    CHECK(simd::log_sigmoid(-kInf) == -kInf);
    CHECK(simd::log_sigmoid(kInf) == 0.0f);
    CHECK(simd::sigmoid(kInf) == 1.0f);
    CHECK(simd::sigmoid(-kInf) == 0.0f);
    CHECK(simd::tanh(kInf) == 1.0f);
    CHECK(simd::tanh(-kInf) == -1.0f);
    CHECK(simd::erf(kInf) == 1.0f);
    CHECK(simd::erf(-kInf) == -1.0f);
    for (const float x : {-kInf, -1e30f, -1000.0f}) {
      CHECK(simd::silu(x) == 0.0f);
      CHECK(simd::gelu(x) == 0.0f);
      CHECK(simd::gelu_tanh(x) == 0.0f);
      CHECK(simd::silu_grad(x) == 0.0f);
      CHECK(simd::gelu_grad(x) == 0.0f);
      CHECK(simd::gelu_tanh_grad(x) == 0.0f);
      CHECK(simd::silu(-x) == -x);
      CHECK(simd::gelu(-x) == -x);
      CHECK(simd::gelu_tanh(-x) == -x);
      CHECK(simd::silu_grad(-x) == 1.0f);
      CHECK(simd::gelu_grad(-x) == 1.0f);
      CHECK(simd::gelu_tanh_grad(-x) == 1.0f);
    }
    for (const float y :
         {simd::exp(kNaN), simd::log(kNaN), simd::log1p(kNaN), simd::softplus(kNaN),
          simd::sigmoid(kNaN), simd::log_sigmoid(kNaN), simd::tanh(kNaN), simd::erf(kNaN),
          simd::silu(kNaN), simd::silu_grad(kNaN), simd::gelu(kNaN), simd::gelu_grad(kNaN),
          simd::gelu_tanh(kNaN), simd::gelu_tanh_grad(kNaN), simd::exp(-kNaN), simd::erf(-kNaN)}) {
      CHECK(std::isnan(y));
    }
  }

  TEST_CASE("simd_math: double forms and derivatives by differences") {
    const double h = 1e-5;
    for (double x = -6; x < 6; x += 0.173) {
      const auto slope = [&](auto&& f) { return (f(x + h) - f(x - h)) / (2 * h); };
      CHECK(simd::silu_grad(x) ==
            doctest::Approx(slope([](double t) { return simd::silu(t); })).epsilon(1e-8));
      CHECK(simd::gelu_grad(x) ==
            doctest::Approx(slope([](double t) { return simd::gelu(t); })).epsilon(1e-8));
      CHECK(simd::gelu_tanh_grad(x) ==
            doctest::Approx(slope([](double t) { return simd::gelu_tanh(t); })).epsilon(1e-8));
      CHECK(simd::silu(x) == doctest::Approx(x / (1 + std::exp(-x))).epsilon(1e-14));
      CHECK(simd::gelu(x) ==
            doctest::Approx(0.5 * x * (1 + std::erf(x / std::sqrt(2.0)))).epsilon(1e-13));
      CHECK(simd::gelu_tanh(x) ==
            doctest::Approx(0.5 * x *
                            (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))))
                .epsilon(1e-13));
      CHECK(simd::softplus(x) == doctest::Approx(std::log(1 + std::exp(x))).epsilon(1e-14));
    }
  }
}
}  // namespace
}  // namespace ls
