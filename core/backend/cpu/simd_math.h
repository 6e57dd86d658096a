#pragma once
// Elementary functions of one float, written without branches or calls so that a loop over an array
// vectorises at -O3: `for (...) y[i] = simd::silu(x[i]);`. The same names on double are the
// standard library's, for references and f64 kernels.
//
// Errors are in units in the last place (ulp) of the float result, over all finite inputs; NaN
// gives NaN, infinities and overflow give the limit. The polynomials are Chebyshev fits of our own,
// in the form that keeps the leading terms exact.
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace ls::simd {

namespace detail {
inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
// ln 2 as a multiple of 2^-9, exact when multiplied by an exponent, and the rest.
inline constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;

inline float power_of_two(std::int32_t n) {  // -126 <= n <= 127
  return std::bit_cast<float>((static_cast<std::uint32_t>(n) + 127u) << 23);
}

/// e^x as p * 2^n with p in [sqrt(1/2), sqrt(2)], for |x| < 1e6.
struct Exponential {
  float p;
  std::int32_t n;
};
inline Exponential exponential(float x) {
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
  constexpr float kShift = 12582912.0f;
  const float shifted = x * 1.44269504f + kShift;
  const auto n = static_cast<std::int32_t>(  // unsigned: far below, it wraps
      std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(kShift));
  const float k = shifted - kShift;
  const float r = (x - k * kLn2High) - k * kLn2Low;
  float p = 0.001392625083f;
  p = p * r + 0.008363232884f;
  p = p * r + 0.04166655421f;
  p = p * r + 0.1666657667f;
  p = p * r + 0.5f;
  return {p * (r * r) + r + 1.0f, n};
}

/// e^x for x <= 88.72 or NaN; garbage above.
inline float exp_bounded(float x) {
  const auto [p, n] = exponential(x);
  // Two factors: 2^n alone overflows or underflows before the product does.
  const std::int32_t half = n >> 1;
  const float y = p * power_of_two(half) * power_of_two(n - half);
  // Zero below, by a mask: given a constant the compiler follows it into the caller and branches.
  const std::int32_t keep = static_cast<std::int32_t>(x < -104.0f) - 1;
  return std::bit_cast<float>(std::bit_cast<std::int32_t>(y) & keep);
}

/// e^x for x <= 0, 0 below -87, garbage for NaN. No result is subnormal, so 2^n is a sum of
/// exponents.
inline float exp_normal(float x) {
  const auto [p, n] = exponential(x);
  const std::uint32_t y = std::bit_cast<std::uint32_t>(p) + (static_cast<std::uint32_t>(n) << 23);
  const std::uint32_t keep = static_cast<std::uint32_t>(x < -87.0f) - 1u;
  return std::bit_cast<float>(y & keep);
}

/// log(2^k * (1 + f)) + correction, for sqrt(1/2) <= 1 + f < sqrt(2).
inline float log_of(float k, float f, float correction) {
  float p = 0.0697161145f;
  p = p * f - 0.1147973385f;
  p = p * f + 0.1168541992f;
  p = p * f - 0.1242568733f;
  p = p * f + 0.1424905765f;
  p = p * f - 0.1666780232f;
  p = p * f + 0.2000071575f;
  p = p * f - 0.2499999696f;
  p = p * f + 0.3333333118f;
  const float square = f * f;
  float tail = p * f * square + (k * kLn2Low + correction);
  tail -= 0.5f * square;
  return (f + tail) + k * kLn2High;
}

/// Splits a positive normal u into 2^k * (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)).
struct Split {
  float k, f;
};
inline Split split(float u) {
  constexpr std::uint32_t kSqrtHalf = 0x3f3504f3;
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(u) - kSqrtHalf;
  const std::int32_t k = static_cast<std::int32_t>(bits) >> 23;
  return {static_cast<float>(k), std::bit_cast<float>((bits & 0x7fffffu) + kSqrtHalf) - 1.0f};
}

/// erf(t) / t for |t| < 0.875, from t^2.
inline float erf_ratio(float square) {
  float p = -0.0006214585362f;
  p = p * square + 0.005034370663f;
  p = p * square - 0.02679294778f;
  p = p * square + 0.112824966f;
  p = p * square - 0.3761255451f;
  return p * square + 1.128379158f;
}

/// erfc(t) / e^(-t^2) for t >= 0.875; 0 at infinity.
inline float erfc_ratio(float t) {
  const float s = 1.0f / (1.0f + 0.45f * t);
  float p = 0.08043702234f;
  p = p * s - 0.290450056f;
  p = p * s + 0.2851457851f;
  p = p * s - 0.02134922713f;
  p = p * s + 0.217116046f;
  p = p * s + 0.2205861075f;
  p = p * s + 0.2546739728f;
  p = p * s + 0.2538506512f;
  return p * s;
}

inline double exp_bounded(double x) {
  return std::exp(x);
}
inline double exp_normal(double x) {
  return std::exp(x);
}

// Beyond these e^-x and e^(-x^2/2) are zero: arguments are bounded there so that no infinity meets
// a zero.
template <class T>
inline constexpr T kFar = sizeof(T) == 4 ? T(150) : T(800);
template <class T>
inline constexpr T kFarNormal = sizeof(T) == 4 ? T(20) : T(40);
/// x within [-limit, limit]; NaN stays.
template <class T>
inline T bounded(T x, T limit) {
  x = x < -limit ? -limit : x;
  return x > limit ? limit : x;
}
}  // namespace detail

inline double exp(double x) {
  return std::exp(x);
}
inline double log(double x) {
  return std::log(x);
}
inline double log1p(double x) {
  return std::log1p(x);
}
inline double tanh(double x) {
  return std::tanh(x);
}
inline double erf(double x) {
  return std::erf(x);
}

/// e^x within 2 ulp; results below the smallest normal float are subnormal, not zero.
inline float exp(float x) {
  const float y = detail::exp_bounded(x);
  return x > 88.73f ? detail::kInf : y;
}

/// log x within 1 ulp; -inf at 0, NaN below.
inline float log(float x) {
  const bool subnormal = x < std::numeric_limits<float>::min();
  const float u = subnormal ? x * 8388608.0f : x;
  const auto [k, f] = detail::split(u);
  float y = detail::log_of(subnormal ? k - 23.0f : k, f, 0.0f);
  y = x == detail::kInf ? x : y;
  y = x == 0.0f ? -detail::kInf : y;
  return x >= 0.0f ? y : detail::kNaN;
}

/// log(1 + x) within 2 ulp; -inf at -1, NaN below.
inline float log1p(float x) {
  const float u = 1.0f + x;
  const auto [k, f] = detail::split(u);
  // What rounding took from 1 + x; without scaling (k = 0) x itself is exact.
  const float lost = x >= 1.0f ? 1.0f - (u - x) : x - (u - 1.0f);
  const bool whole = k == 0.0f;
  float y = detail::log_of(k, whole ? x : f, whole ? 0.0f : lost / u);
  y = x == detail::kInf ? x : y;
  y = x == -1.0f ? -detail::kInf : y;
  return x >= -1.0f ? y : detail::kNaN;
}

/// tanh x within 2 ulp.
inline float tanh(float x) {
  const float t = std::fabs(x);
  const float square = t * t;
  float p = -0.006096714166f;
  p = p * square + 0.020997179f;
  p = p * square - 0.05385090958f;
  p = p * square + 0.1333276974f;
  p = p * square - 0.3333332894f;
  const float near = x + x * (square * p);
  const float far = std::copysign(1.0f - 2.0f / (exp(2.0f * t) + 1.0f), x);
  return t < 0.625f ? near : far;
}

/// erf x within 3 ulp.
inline float erf(float x) {
  const float t = std::fabs(x);
  const float near = x * detail::erf_ratio(t * t);
  const float far = std::copysign(1.0f - detail::exp_bounded(-t * t) * detail::erfc_ratio(t), x);
  return t < 0.875f ? near : far;
}

/// log(1 + e^x) within 2 ulp.
template <class T>
inline T softplus(T x) {
  return (x > T(0) ? x : T(0)) + log1p(detail::exp_bounded(-std::fabs(x)));
}

/// 1 / (1 + e^-x) within 3 ulp, also where it underflows.
template <class T>
inline T sigmoid(T x) {
  const T e = detail::exp_bounded(-std::fabs(x));
  return (x < T(0) ? e : T(1)) / (T(1) + e);
}

/// log of sigmoid(x), without cancellation.
template <class T>
inline T log_sigmoid(T x) {
  return -softplus(-x);
}

/// x * sigmoid(x) within 4 ulp above x = -87; for floats, -0 below.
template <class T>
inline T silu(T x) {
  const T e = detail::exp_normal(-std::fabs(x));
  return (x < -detail::kFar<T> ? -detail::kFar<T> : x) * ((x < T(0) ? e : T(1)) / (T(1) + e));
}

/// silu and its derivative from one exponential; the value as silu gives it, within the smallest
/// normal number.
template <class T>
inline void silu_both(T x, T& value, T& slope) {
  const T t = detail::bounded(x, detail::kFar<T>);
  const T e = detail::exp_normal(-std::fabs(t));
  const T large = T(1) / (T(1) + e), small = e * large;
  const T s = t < T(0) ? small : large, rest = t < T(0) ? large : small;
  value = (x < t ? t : x) * s;
  slope = s + t * (s * rest);
}

/// d silu / dx.
template <class T>
inline T silu_grad(T x) {
  T value, slope;
  silu_both(x, value, slope);
  return slope;
}

/// The standard normal distribution at x: `cdf`, and `density` without its factor 1/sqrt(2 pi). The
/// relative error of both grows as x^2 far from 0.
template <class T>
struct Normal {
  T cdf, density;
};
inline Normal<float> normal(float x) {
  const float t = std::fabs(x) * 0.70710678f;
  const float e = detail::exp_bounded(-0.5f * x * x);
  const float near = 0.5f - 0.5f * t * detail::erf_ratio(t * t);
  const float upper = t < 0.875f ? near : 0.5f * e * detail::erfc_ratio(t);
  return {x < 0.0f ? upper : 1.0f - upper, e};
}
inline Normal<double> normal(double x) {
  return {0.5 * std::erfc(-x * 0.70710678118654752440), std::exp(-0.5 * x * x)};
}

/// x * cdf(x), the exact (erf) form; -0 at -infinity.
template <class T>
inline T gelu(T x) {
  const T t = x < -detail::kFarNormal<T> ? -detail::kFarNormal<T> : x;
  return t * normal(t).cdf;
}

/// d gelu / dx.
template <class T>
inline T gelu_grad(T x) {
  const T t = detail::bounded(x, detail::kFarNormal<T>);
  const auto [cdf, density] = normal(t);
  return cdf + t * (T(0.39894228040143267794) * density);
}

/// The tanh form of GELU, 0.5 x (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3), as
/// x * sigmoid(2 u).
template <class T>
inline T gelu_tanh(T x) {
  const T t = x < -detail::kFarNormal<T> ? -detail::kFarNormal<T> : x;
  return t * sigmoid(T(1.59576912160573071176) * t * (T(1) + T(0.044715) * t * t));
}

/// d gelu_tanh / dx.
template <class T>
inline T gelu_tanh_grad(T x) {
  const T t = detail::bounded(x, detail::kFarNormal<T>);
  const T s = sigmoid(T(1.59576912160573071176) * t * (T(1) + T(0.044715) * t * t));
  const T slope = T(1.59576912160573071176) * (T(1) + T(0.134145) * t * t);
  return s + t * slope * (s * (T(1) - s));
}

}  // namespace ls::simd
