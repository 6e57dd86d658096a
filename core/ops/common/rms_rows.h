#pragma once
// One row of a root-mean-square norm, as kernels over rows use it.
#include <algorithm>
#include <cmath>

#include "core/base/types.h"
#include "core/ops/common/activations.h"

namespace ls::ops::rms {

/// Rows are asked for this many before their turn.
inline constexpr Index kAhead = 6;

/// Where a gate stands: y = n(x), n(x) act(z) or n(x act(z)).
enum class Gating { kNone, kAfter, kBefore };

/// y = n(x) gain, gated; returns 1 / sqrt(mean(u^2) + eps) of what is normalised, u. `buffer` holds
/// 2 * n elements.
template <Gating kGating, class Act, class T, class A>
A forward_row(const T* __restrict x, const T* __restrict z, const A* __restrict gain, Index n,
              A eps, A* __restrict buffer, T* __restrict y) {
  A square = 0;
  A* __restrict u = buffer;
  A* __restrict s = buffer + n;
  if constexpr (kGating != Gating::kNone) {
    for (Index c = 0; c < n; ++c) {
      s[c] = Act::f(convert<A>(z[c]));
    }
  }
#pragma omp simd reduction(+ : square)
  for (Index c = 0; c < n; ++c) {
    const A v = kGating == Gating::kBefore ? convert<A>(x[c]) * s[c] : convert<A>(x[c]);
    u[c] = v;
    square += v * v;
  }
  const A rstd = A(1) / std::sqrt(square / static_cast<A>(n) + eps);
  for (Index c = 0; c < n; ++c) {
    const A v = u[c] * rstd * gain[c];
    y[c] = convert<T>(kGating == Gating::kAfter ? v * s[c] : v);
  }
  return rstd;
}

/// Gradients of forward_row: dx and dz are written, dgain is added to. `extra`, when kExtra, is
/// added to dx. `buffer` holds 3 * n elements.
template <Gating kGating, class Act, bool kExtra, class T, class A>
void backward_row(const T* __restrict x, const T* __restrict z, const A* __restrict gain, A rstd,
                  const T* __restrict dy, const T* __restrict extra, Index n, A* __restrict buffer,
                  T* __restrict dx, T* __restrict dz, A* __restrict dgain) {
  A* __restrict g = buffer;  // gradient of the normalised row
  A* __restrict s = buffer + n;
  A* __restrict slope = buffer + 2 * n;
  if constexpr (kGating != Gating::kNone) {
    for (Index c = 0; c < n; ++c) {
      act::value_and_slope<Act>(convert<A>(z[c]), s[c], slope[c]);
    }
  }
  const auto normalised = [&](Index c) {
    return kGating == Gating::kBefore ? convert<A>(x[c]) * s[c] * rstd : convert<A>(x[c]) * rstd;
  };
  A dot = 0;
#pragma omp simd reduction(+ : dot)
  for (Index c = 0; c < n; ++c) {
    const A v = normalised(c);
    A d = convert<A>(dy[c]);
    if constexpr (kGating == Gating::kAfter) {
      dz[c] = convert<T>(d * v * gain[c] * slope[c]);
      d *= s[c];
    }
    dgain[c] += d * v;
    g[c] = d * gain[c];
    dot += g[c] * v;
  }
  dot /= static_cast<A>(n);
  for (Index c = 0; c < n; ++c) {
    A d = rstd * (g[c] - normalised(c) * dot);
    if constexpr (kGating == Gating::kBefore) {
      dz[c] = convert<T>(d * convert<A>(x[c]) * slope[c]);
      d *= s[c];
    }
    dx[c] = convert<T>(kExtra ? d + convert<A>(extra[c]) : d);
  }
}

/// Rows are shared out in this many pieces for the sums over rows, whatever the thread count: one
/// order of summation. The gradient of the gain from the sums [kPieces, n] of the pieces.
inline constexpr Index kPieces = 16;
template <class A>
void add_pieces(const A* __restrict sums, Index n, A* __restrict dgain) {
  std::fill(dgain, dgain + n, A(0));
  for (Index p = 0; p < kPieces; ++p) {
    for (Index c = 0; c < n; ++c) {
      dgain[c] += sums[p * n + c];
    }
  }
}

}  // namespace ls::ops::rms
