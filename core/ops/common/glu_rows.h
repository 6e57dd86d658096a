#pragma once
// One row of a gated linear unit, as kernels over rows use it.
#include "core/base/types.h"
#include "core/ops/common/activations.h"

namespace ls::ops::glu {

/// y = act(gate) * up, f channels.
template <class F, class T>
void forward_row(const T* __restrict gate, const T* __restrict up, Index f, T* __restrict y) {
  using A = acc_t<T>;
  for (Index c = 0; c < f; ++c) {
    y[c] = convert<T>(F::f(convert<A>(gate[c])) * convert<A>(up[c]));
  }
}

/// Gradients of forward_row; y is formed again when kAgain.
template <class F, bool kAgain, class T>
void backward_row(const T* __restrict gate, const T* __restrict up, const T* __restrict dy, Index f,
                  T* __restrict dgate, T* __restrict dup, T* __restrict y) {
  using A = acc_t<T>;
  for (Index c = 0; c < f; ++c) {
    const A g = convert<A>(dy[c]), u = convert<A>(up[c]);
    A value, slope;
    act::value_and_slope<F>(convert<A>(gate[c]), value, slope);
    dgate[c] = convert<T>(g * u * slope);
    dup[c] = convert<T>(g * value);
    if constexpr (kAgain) {
      y[c] = convert<T>(value * u);
    }
  }
}

}  // namespace ls::ops::glu
