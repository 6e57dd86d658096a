#pragma once
#include <string>

#include "core/op.h"

namespace ls {

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
/// "identity", "exp", "relu", "relu2", "sigmoid", "tanh", "silu", "gelu_erf", "gelu_tanh",
/// "softplus", "logsigmoid", "elu", "elu_plus_one". @throws Error(Config) naming them
Act parse_activation(const std::string& name);

/// y = act(x), elementwise.
/// @shape  x [...] -> y [...]
/// @dtype  any float; evaluated in acc
/// @grad   exact; at the kink of relu and relu2 it is 0
struct Activation {
  template <class T>
  struct In {
    T x;
  };
  template <class T>
  struct Out {
    T y;
  };
  struct Attrs {
    Act activation = Act::kIdentity;
  };
};

}  // namespace ls
