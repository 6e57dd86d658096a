#pragma once
// The activations and their derivatives on a GPU; which one is the same for all threads.
#include <type_traits>

#include "core/ops/common/act.h"

namespace ls::ops::act {

/// In f32 by the two fast functions of a multiprocessor: some units in the last place.
template <class A>
__device__ __forceinline__ A device_sigmoid(A x) {
  if constexpr (std::is_same_v<A, float>) {
    return __fdividef(1.f, 1.f + __expf(-x));
  } else {
    return A(1) / (A(1) + exp(-x));
  }
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

inline constexpr double kTwiceRootTwoOverPi = 1.5957691216057308, kCube = 0.044715;
/// x / 2 (1 + tanh(u)) = x sigmoid(2 u): the sigmoid.
template <class A>
__device__ __forceinline__ A device_gelu_gate(A x) {
  return device_sigmoid(A(kTwiceRootTwoOverPi) * (x + A(kCube) * x * x * x));
}
template <class A>
__device__ __forceinline__ A device_gelu_slope(A x, A gate) {
  return gate + x * gate * (A(1) - gate) * A(kTwiceRootTwoOverPi) * (A(1) + A(3 * kCube) * x * x);
}

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
      return x * device_gelu_gate(x);
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
    case Act::kGeluTanh:
      return device_gelu_slope(x, device_gelu_gate(x));
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

/// x becomes the values: which function it is, is asked once for all of them.
template <class A, int N>
__device__ __forceinline__ void device_values(Act a, A (&x)[N]) {
  if (a == Act::kSilu) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x[i] = device_silu(x[i]);
    }
  } else if (a == Act::kGeluTanh) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      x[i] *= device_gelu_gate(x[i]);
    }
  } else {
    for (int i = 0; i < N; ++i) {
      x[i] = device_value(a, x[i]);
    }
  }
}
/// x becomes the values, and the derivatives go to `slope`.
template <class A, int N>
__device__ __forceinline__ void device_values(Act a, A (&x)[N], A (&slope)[N]) {
  if (a == Act::kSilu) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const A s = device_sigmoid(x[i]);
      slope[i] = s * (A(1) + x[i] * (A(1) - s));
      x[i] *= s;
    }
  } else if (a == Act::kGeluTanh) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const A s = device_gelu_gate(x[i]);
      slope[i] = device_gelu_slope(x[i], s);
      x[i] *= s;
    }
  } else {
    for (int i = 0; i < N; ++i) {
      slope[i] = device_slope(a, x[i]);
      x[i] = device_value(a, x[i]);
    }
  }
}

}  // namespace ls::ops::act
