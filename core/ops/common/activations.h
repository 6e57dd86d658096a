#pragma once
// The activations and their derivatives as types, so that a kernel is compiled once for each.
#include <type_traits>

#include "core/backend/cpu/simd_math.h"
#include "core/base/error.h"
#include "core/ops/common/act.h"

namespace ls::ops::act {

struct Identity {
  template <class T>
  static T f(T x) {
    return x;
  }
  template <class T>
  static T d(T) {
    return T(1);
  }
};
struct Exp {
  template <class T>
  static T f(T x) {
    return simd::exp(x);
  }
  template <class T>
  static T d(T x) {
    return simd::exp(x);
  }
};
struct Relu {
  template <class T>
  static T f(T x) {
    return x > 0 ? x : T(0);
  }
  template <class T>
  static T d(T x) {
    return x > 0 ? T(1) : T(0);
  }
};
struct Relu2 {
  template <class T>
  static T f(T x) {
    return x > 0 ? x * x : T(0);
  }
  template <class T>
  static T d(T x) {
    return x > 0 ? 2 * x : T(0);
  }
};
struct Sigmoid {
  template <class T>
  static T f(T x) {
    return simd::sigmoid(x);
  }
  template <class T>
  static T d(T x) {
    return simd::sigmoid(x) * simd::sigmoid(-x);
  }
};
struct Tanh {
  template <class T>
  static T f(T x) {
    return simd::tanh(x);
  }
  template <class T>
  static T d(T x) {
    const T t = simd::tanh(x);
    return 1 - t * t;
  }
};
struct Silu {
  template <class T>
  static T f(T x) {
    return simd::silu(x);
  }
  template <class T>
  static T d(T x) {
    return simd::silu_grad(x);
  }
};
struct GeluErf {
  template <class T>
  static T f(T x) {
    return simd::gelu(x);
  }
  template <class T>
  static T d(T x) {
    return simd::gelu_grad(x);
  }
};
struct GeluTanh {
  template <class T>
  static T f(T x) {
    return simd::gelu_tanh(x);
  }
  template <class T>
  static T d(T x) {
    return simd::gelu_tanh_grad(x);
  }
};
struct Softplus {
  template <class T>
  static T f(T x) {
    return simd::softplus(x);
  }
  template <class T>
  static T d(T x) {
    return simd::sigmoid(x);
  }
};
struct LogSigmoid {
  template <class T>
  static T f(T x) {
    return simd::log_sigmoid(x);
  }
  template <class T>
  static T d(T x) {
    return simd::sigmoid(-x);
  }
};
struct Elu {
  template <class T>
  static T f(T x) {
    return x > 0 ? x : std::expm1(x);
  }
  template <class T>
  static T d(T x) {
    return x > 0 ? T(1) : simd::exp(x);
  }
};
struct EluPlusOne {
  template <class T>
  static T f(T x) {
    return x > 0 ? x + 1 : simd::exp(x);
  }
  template <class T>
  static T d(T x) {
    return x > 0 ? T(1) : simd::exp(x);
  }
};

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

/// fn.operator()<Function>() with the type of `a`.
template <class Fn>
void dispatch(Act a, Fn&& fn) {
  switch (a) {
    case Act::kIdentity:
      return fn.template operator()<Identity>();
    case Act::kExp:
      return fn.template operator()<Exp>();
    case Act::kRelu:
      return fn.template operator()<Relu>();
    case Act::kRelu2:
      return fn.template operator()<Relu2>();
    case Act::kSigmoid:
      return fn.template operator()<Sigmoid>();
    case Act::kTanh:
      return fn.template operator()<Tanh>();
    case Act::kSilu:
      return fn.template operator()<Silu>();
    case Act::kGeluErf:
      return fn.template operator()<GeluErf>();
    case Act::kGeluTanh:
      return fn.template operator()<GeluTanh>();
    case Act::kSoftplus:
      return fn.template operator()<Softplus>();
    case Act::kLogSigmoid:
      return fn.template operator()<LogSigmoid>();
    case Act::kElu:
      return fn.template operator()<Elu>();
    case Act::kEluPlusOne:
      return fn.template operator()<EluPlusOne>();
  }
  LS_FAIL(kInternal, "activation {} does not exist", static_cast<int>(a));
}

}  // namespace ls::ops::act
