// Elementary functions of one double over the ranges that are needed here, written without branches
// or calls so that the loop vectorises. The build compiles this file without contraction of
// a * b + c to one rounding (CMakeLists.txt): the instruction set changes no bit, and the
// reductions below, which count on each product being rounded, stay exact.
//
// The polynomials are minimax fits of our own, each below 2^-58 of the function it serves.
#include "core/base/box_muller.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace ls {
namespace {

using Bits = std::uint64_t;
inline Bits bits(double x) {
  return std::bit_cast<Bits>(x);
}
inline double value(Bits x) {
  return std::bit_cast<double>(x);
}

/// -log(x), 2^-53 <= x <= 1; +0 at 1.
inline double minus_log(double x) {
  constexpr Bits kOne = 0x3ff0000000000000, kSqrtHalf = 0x3fe6a09e667f3bcd;
  constexpr Bits kMantissa = 0x000fffffffffffff;
  // ln 2 in two parts, the first of few enough bits to be exact when multiplied by an exponent.
  constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  // x = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2). In 2^52 + n the low bits are n.
  const Bits shifted = bits(x) + (kOne - kSqrtHalf);
  const double k = value((shifted >> 52) | bits(0x1p52)) - (0x1p52 + 1023.0);
  const double f = value((shifted & kMantissa) + kSqrtHalf) - 1.0;
  // log(1 + f) = 2 artanh(s) = f - f^2/2 + s (f^2/2 + z p(z)), s = f / (2 + f), z = s^2.
  const double s = f / (2.0 + f);
  const double z = s * s;
  double p = 0.1479595467501488;
  p = p * z + 0.15314050092683903;
  p = p * z + 0.18183564341825734;
  p = p * z + 0.22222198572953078;
  p = p * z + 0.28571428742388666;
  p = p * z + 0.3999999999941468;
  p = p * z + 0.6666666666666734;
  const double half_square = 0.5 * f * f;
  return ((half_square - (s * (half_square + z * p) + k * kLn2Low)) - f) - k * kLn2High;
}

struct Direction {
  double cos, sin;
};
/// Cosine and sine of the double nearest to 2 pi v, 0 <= v < 1.
inline Direction direction(double v) {
  // pi/2 in two parts, the first of few enough bits to be exact when multiplied by 0 .. 4.
  constexpr double kQuarterHigh = 0x1.921fb54442d18p+0, kQuarterLow = 0x1.1a62633145c07p-54;
  // Adding 1.5 * 2^52 rounds to an integer and leaves it in the low bits.
  constexpr double kShift = 0x1.8p52;
  const double shifted = 4.0 * v + kShift;
  const Bits quarter = bits(shifted);
  const double k = shifted - kShift;
  // angle = k pi/2 + r + rest, |r| <= pi/4: the first difference is exact.
  const double angle = 2.0 * std::numbers::pi * v;
  const double near = angle - k * kQuarterHigh;
  const double low = k * kQuarterLow;
  const double r = near - low;
  const double rest = (near - r) - low;
  const double z = r * r;
  double s = 1.5896828145112836e-10;
  s = s * z - 2.505075865710014e-08;
  s = s * z + 2.75573136952498e-06;
  s = s * z - 0.00019841269829817007;
  s = s * z + 0.008333333333322425;
  s = s * z - 0.16666666666666632;
  const double sin = r + (r * z * s + rest);
  double c = -1.1358536522551359e-11;
  c = c * z + 2.0875700841773895e-09;
  c = c * z - 2.7557314179293045e-07;
  c = c * z + 2.480158728885168e-05;
  c = c * z - 0.0013888888888873056;
  c = c * z + 0.041666666666666595;
  const double half = 0.5 * z;
  const double most = 1.0 - half;
  const double cos = most + (((1.0 - most) - half) + (z * z * c - r * rest));
  // Each quarter turn exchanges the two and changes one sign.
  const Bits exchange = (bits(cos) ^ bits(sin)) & (Bits{0} - (quarter & 1));
  return {value((bits(cos) ^ exchange) ^ (((quarter + 1) >> 1) << 63)),
          value((bits(sin) ^ exchange) ^ ((quarter >> 1) << 63))};
}

}  // namespace

void box_muller(Index n, const double* __restrict u, const double* __restrict v,
                double* __restrict out) {
  for (Index i = 0; i < n; ++i) {
    const double radius = std::sqrt(2.0 * minus_log(1.0 - u[i]));
    const auto [cos, sin] = direction(v[i]);
    out[2 * i] = radius * cos;
    out[2 * i + 1] = radius * sin;
  }
}

}  // namespace ls
