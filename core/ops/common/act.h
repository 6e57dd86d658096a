#pragma once
// Activations by name, an attribute of several ops.
#include <array>
#include <cstdint>
#include <string_view>

#include "core/base/enum_names.h"

namespace ls::ops {

enum class Act : std::uint8_t {
  kIdentity,
  kExp,
  kRelu,
  kRelu2,
  kSigmoid,
  kTanh,
  kSilu,
  kGeluErf,
  kGeluTanh,
  kSoftplus,
  kLogSigmoid,
  kElu,
  kEluPlusOne
};

}  // namespace ls::ops

template <>
struct ls::EnumNames<ls::ops::Act> {
  static constexpr std::string_view kKind = "activation";
  static constexpr std::array<std::string_view, 13> kNames = {
      "identity", "exp",       "relu",     "relu2",      "sigmoid", "tanh",        "silu",
      "gelu_erf", "gelu_tanh", "softplus", "logsigmoid", "elu",     "elu_plus_one"};
};
