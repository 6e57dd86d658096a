#pragma once
#include "core/op/op.h"

namespace ls::ops {

/// Log-decay of Mamba and Gated DeltaNet, per head: g = -exp(a_log) softplus(x + dt_bias).
/// @shape  x [...,H], a_log [H], dt_bias [H] or absent (0) -> g [...,H]
/// @units  g is the natural log of the decay per token, g <= 0
/// @dtype  x any float; a_log, dt_bias and g acc
/// @grad   exact, summed over tokens in acc for a_log and dt_bias
/// @source Gu & Dao 2312.00752; Yang, Kautz, Hatamizadeh 2412.06464
struct MambaGate {
  template <class T>
  struct In {
    T x, a_log, dt_bias;
  };
  template <class T>
  struct Out {
    T g;
  };
  struct Attrs {};
};

}  // namespace ls::ops
