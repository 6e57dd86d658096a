#pragma once
// The activations and their derivatives on a GPU; which one is the same for all threads.
#include "core/ops/common/act.h"

namespace ls::ops::act {

template <class A>
__device__ __forceinline__ A device_sigmoid(A x) {
  return A(1) / (A(1) + exp(-x));
}
template <class A>
__device__ __forceinline__ A device_softplus(A x) {
  return (x > A(0) ? x : A(0)) + log1p(exp(-abs(x)));
}
template <class A>
__device__ __forceinline__ A device_silu(A x) {
  return x * device_sigmoid(x);
}
template <class A>
__device__ __forceinline__ A device_silu_slope(A x) {
  const A s = device_sigmoid(x);
  return s * (A(1) + x * (A(1) - s));
}

inline constexpr double kRootTwoOverPi = 0.7978845608028654, kCube = 0.044715;

template <class A>
__device__ A device_value(Act a, A x) {
  switch (a) {
    case Act::kIdentity:
      return x;
    case Act::kExp:
      return exp(x);
    case Act::kRelu:
      return x > A(0) ? x : A(0);
    case Act::kRelu2:
      return x > A(0) ? x * x : A(0);
    case Act::kSigmoid:
      return device_sigmoid(x);
    case Act::kTanh:
      return tanh(x);
    case Act::kSilu:
      return device_silu(x);
    case Act::kGeluErf:
      return x / A(2) * erfc(-x * A(0.7071067811865476));
    case Act::kGeluTanh:
      return x / A(2) * (A(1) + tanh(A(kRootTwoOverPi) * (x + A(kCube) * x * x * x)));
    case Act::kSoftplus:
      return device_softplus(x);
    case Act::kLogSigmoid:
      return -device_softplus(-x);
    case Act::kElu:
      return x > A(0) ? x : expm1(x);
    case Act::kEluPlusOne:
      return x > A(0) ? x + A(1) : exp(x);
  }
  return x;
}

/// The derivative.
template <class A>
__device__ A device_slope(Act a, A x) {
  switch (a) {
    case Act::kIdentity:
      return A(1);
    case Act::kExp:
      return exp(x);
    case Act::kRelu:
      return x > A(0) ? A(1) : A(0);
    case Act::kRelu2:
      return x > A(0) ? A(2) * x : A(0);
    case Act::kSigmoid:
      return device_sigmoid(x) * device_sigmoid(-x);
    case Act::kTanh: {
      const A t = tanh(x);
      return A(1) - t * t;
    }
    case Act::kSilu:
      return device_silu_slope(x);
    case Act::kGeluErf:
      return erfc(-x * A(0.7071067811865476)) / A(2) +
             x * exp(-x * x / A(2)) * A(0.3989422804014327);
    case Act::kGeluTanh: {
      const A t = tanh(A(kRootTwoOverPi) * (x + A(kCube) * x * x * x));
      return (A(1) + t) / A(2) +
             x / A(2) * (A(1) - t * t) * A(kRootTwoOverPi) * (A(1) + A(3 * kCube) * x * x);
    }
    case Act::kSoftplus:
      return device_sigmoid(x);
    case Act::kLogSigmoid:
      return device_sigmoid(-x);
    case Act::kElu:
    case Act::kEluPlusOne:
      return x > A(0) ? A(1) : exp(x);
  }
  return A(1);
}

}  // namespace ls::ops::act
