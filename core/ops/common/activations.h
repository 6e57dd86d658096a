#pragma once
// The activations and their derivatives as types, so that a kernel is compiled once for each.
#include <type_traits>
#include <utility>

#include "core/backend/cpu/simd_math.h"
#include "core/base/error.h"
#include "core/ops/common/act.h"

namespace ls::ops::act {

/// One activation; a function of it is compiled without the others.
template <Act kAct>
struct Function {
  template <class T>
  static T f(T x) {
    switch (kAct) {
      case Act::kIdentity:
        return x;
      case Act::kExp:
        return simd::exp(x);
      case Act::kRelu:
        return x > 0 ? x : T(0);
      case Act::kRelu2:
        return x > 0 ? x * x : T(0);
      case Act::kSigmoid:
        return simd::sigmoid(x);
      case Act::kTanh:
        return simd::tanh(x);
      case Act::kSilu:
        return simd::silu(x);
      case Act::kGeluErf:
        return simd::gelu(x);
      case Act::kGeluTanh:
        return simd::gelu_tanh(x);
      case Act::kSoftplus:
        return simd::softplus(x);
      case Act::kLogSigmoid:
        return simd::log_sigmoid(x);
      case Act::kElu:
        return x > 0 ? x : std::expm1(x);
      case Act::kEluPlusOne:
        return x > 0 ? x + 1 : simd::exp(x);
    }
  }
  /// The derivative.
  template <class T>
  static T d(T x) {
    switch (kAct) {
      case Act::kIdentity:
        return T(1);
      case Act::kExp:
        return simd::exp(x);
      case Act::kRelu:
        return x > 0 ? T(1) : T(0);
      case Act::kRelu2:
        return x > 0 ? 2 * x : T(0);
      case Act::kSigmoid:
        return simd::sigmoid(x) * simd::sigmoid(-x);
      case Act::kTanh: {
        const T t = simd::tanh(x);
        return 1 - t * t;
      }
      case Act::kSilu:
        return simd::silu_grad(x);
      case Act::kGeluErf:
        return simd::gelu_grad(x);
      case Act::kGeluTanh:
        return simd::gelu_tanh_grad(x);
      case Act::kSoftplus:
        return simd::sigmoid(x);
      case Act::kLogSigmoid:
        return simd::sigmoid(-x);
      case Act::kElu:
        return x > 0 ? T(1) : simd::exp(x);
      case Act::kEluPlusOne:
        return x > 0 ? T(1) : simd::exp(x);
    }
  }
};
using Silu = Function<Act::kSilu>;
using Sigmoid = Function<Act::kSigmoid>;

/// Value and derivative; they share their exponential where that is worth a function of its own.
template <class F, class T>
void value_and_slope(T x, T& value, T& slope) {
  if constexpr (std::is_same_v<F, Silu>) {
    simd::silu_both(x, value, slope);
  } else {
    value = F::f(x);
    slope = F::d(x);
  }
}

/// fn.operator()<Function<a>>().
template <class Fn>
void dispatch(Act a, Fn&& fn) {
  constexpr std::size_t kCount = EnumNames<Act>::kNames.size();
  const bool found = [&]<std::size_t... kIndex>(std::index_sequence<kIndex...>) {
    return ((a == Act(kIndex) && (fn.template operator()<Function<Act(kIndex)>>(), true)) || ...);
  }
  (std::make_index_sequence<kCount>());
  LS_CHECK(found, kInternal, "activation {} does not exist", static_cast<int>(a));
}

}  // namespace ls::ops::act
