#pragma once
// The activations and their derivatives as the textbook writes them, by the standard library: for
// references.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/base/error.h"
#include "core/ops/common/act.h"

namespace ls::ops::act {

template <class Real>
Real reference_sigmoid(Real x) {
  return 1 / (1 + std::exp(-x));
}
template <class Real>
Real reference_softplus(Real x) {
  return std::max(x, Real(0)) + std::log1p(std::exp(-std::abs(x)));
}

template <class Real>
Real reference_value(Act a, Real x) {
  constexpr Real kPi = std::numbers::pi_v<Real>;
  switch (a) {
    case Act::kIdentity:
      return x;
    case Act::kExp:
      return std::exp(x);
    case Act::kRelu:
      return std::max(x, Real(0));
    case Act::kRelu2:
      return std::max(x, Real(0)) * std::max(x, Real(0));
    case Act::kSigmoid:
      return reference_sigmoid(x);
    case Act::kTanh:
      return std::tanh(x);
    case Act::kSilu:
      return x * reference_sigmoid(x);
    case Act::kGeluErf:
      return x / 2 * std::erfc(-x / std::sqrt(Real(2)));
    case Act::kGeluTanh:
      return x / 2 * (1 + std::tanh(std::sqrt(2 / kPi) * (x + Real(0.044715) * x * x * x)));
    case Act::kSoftplus:
      return reference_softplus(x);
    case Act::kLogSigmoid:
      return -reference_softplus(-x);
    case Act::kElu:
      return x > 0 ? x : std::expm1(x);
    case Act::kEluPlusOne:
      return x > 0 ? x + 1 : std::exp(x);
  }
  LS_FAIL(kInternal, "activation {} does not exist", static_cast<int>(a));
}

template <class Real>
Real reference_slope(Act a, Real x) {
  constexpr Real kPi = std::numbers::pi_v<Real>;
  switch (a) {
    case Act::kIdentity:
      return 1;
    case Act::kExp:
      return std::exp(x);
    case Act::kRelu:
      return x > 0 ? Real(1) : Real(0);
    case Act::kRelu2:
      return x > 0 ? 2 * x : Real(0);
    case Act::kSigmoid:
      return reference_sigmoid(x) * reference_sigmoid(-x);
    case Act::kTanh:
      return 1 - std::tanh(x) * std::tanh(x);
    case Act::kSilu:
      return reference_sigmoid(x) * (1 + x * (1 - reference_sigmoid(x)));
    case Act::kGeluErf:
      return std::erfc(-x / std::sqrt(Real(2))) / 2 + x * std::exp(-x * x / 2) / std::sqrt(2 * kPi);
    case Act::kGeluTanh: {
      const Real t = std::tanh(std::sqrt(2 / kPi) * (x + Real(0.044715) * x * x * x));
      return (1 + t) / 2 +
             x / 2 * (1 - t * t) * std::sqrt(2 / kPi) * (1 + 3 * Real(0.044715) * x * x);
    }
    case Act::kSoftplus:
      return reference_sigmoid(x);
    case Act::kLogSigmoid:
      return reference_sigmoid(-x);
    case Act::kElu:
    case Act::kEluPlusOne:
      return x > 0 ? Real(1) : std::exp(x);
  }
  LS_FAIL(kInternal, "activation {} does not exist", static_cast<int>(a));
}

}  // namespace ls::ops::act
