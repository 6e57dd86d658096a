#include "tests/support/tolerance.h"

#include <cmath>
#include <cstring>
#include <limits>

namespace ls::test {
namespace {

/// Roundings to the type itself, and of one term to its acc type; both are several of its units, as
/// a gradient is made from results that are rounded already.
struct Row {
  double stored, summed;
};
constexpr Row kTable[] = {
    {1e-15, 5e-16},  // f64
    {5e-7, 3e-7},    // f32
    {2e-2, 3e-7},    // bf16
    {2.5e-3, 3e-7},  // f16
};

std::string mismatch(const Tensor& got, const Tensor& want) {
  if (got.defined() != want.defined() || (got.defined() && !(got.shape() == want.shape()))) {
    return fmt::format("{} instead of {}", got.defined() ? got.describe() : "nothing",
                       want.defined() ? want.describe() : "nothing");
  }
  return "";
}

}  // namespace

double tolerance(DType t, Index terms) {
  LS_CHECK(is_float(t), kInternal, "no tolerance for {}", enum_name(t));
  const Row& row = kTable[static_cast<int>(t)];
  return row.stored + row.summed * std::sqrt(static_cast<double>(terms));
}

std::string difference(const Tensor& got, const Tensor& want, double tolerance) {
  if (const std::string m = mismatch(got, want); !m.empty() || !got.defined()) {
    return m;
  }
  const bool exact = !is_float(want.dtype());
  const double smallest = got.dtype() == DType::kF16 ? 0x1p-24 : 0;  // 1e-14 becomes 0 there
  const auto x = got.to_vector<double>(), y = want.to_vector<double>();
  double square = 0, error_square = 0, finite = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    if (std::isfinite(y[i])) {
      square += y[i] * y[i];
      error_square += (x[i] - y[i]) * (x[i] - y[i]);
      ++finite;
    }
  }
  const double rms = finite > 0 ? std::sqrt(square / finite) : 0;
  double worst = 0;
  std::size_t at = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    const double allowed = exact ? 0 : tolerance * (std::abs(y[i]) + rms) + smallest;
    double error = x[i] == y[i] ? 0 : std::abs(x[i] - y[i]) / allowed;
    if (!std::isfinite(error) || (std::isinf(y[i]) && x[i] != y[i])) {
      error = std::numeric_limits<double>::infinity();
    }
    if (error > worst) {
      worst = error;
      at = i;
    }
  }
  return worst <= 1 ? ""
                    : fmt::format(
                          "element {} of {} is {:.9g}, expected {:.9g}: {:.3g} times what is "
                          "allowed ({:.2g}); relative rms {:.2g}",
                          at, want.describe(), x[at], y[at], worst, tolerance,
                          square > 0 ? std::sqrt(error_square / square) : error_square);
}

std::string bit_difference(const Tensor& got, const Tensor& want) {
  if (const std::string m = mismatch(got, want); !m.empty() || !got.defined()) {
    return m;
  }
  if (got.dtype() != want.dtype()) {
    return fmt::format("{} instead of {}", got.describe(), want.describe());
  }
  const Tensor x = got.to(cpu()).contiguous(), y = want.to(cpu()).contiguous();
  const Index size = dtype_size(x.dtype());
  for (Index i = 0; i < x.numel(); ++i) {
    if (std::memcmp(static_cast<const char*>(x.raw()) + i * size,
                    static_cast<const char*>(y.raw()) + i * size,
                    static_cast<std::size_t>(size)) != 0) {
      return fmt::format("element {} of {} is {:.17g} instead of {:.17g}", i, x.describe(),
                         x.slow_at(i), y.slow_at(i));
    }
  }
  return "";
}

}  // namespace ls::test
