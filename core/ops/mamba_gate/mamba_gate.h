#pragma once

namespace ls::ops {

/// Log-decay of Mamba, Gated DeltaNet and KDA: g = -exp(a_log) softplus(x + dt_bias), or where
/// low < 0 bounded by it, g = low sigmoid(exp(a_log) (x + dt_bias)); a_log by head, the rest by
/// head or by channel.
/// @shape  x [...,X], a_log [H], dt_bias [X] or absent (0) -> g [...,X]; X = H C, and a_log of
///         channel i is that of head i / C
/// @units  g is the natural log of the decay per token, g <= 0
/// @dtype  x any float; a_log, dt_bias and g acc
/// @grad   exact, summed over tokens in acc for a_log and dt_bias
/// @throws Error(Config) where low > 0
/// @source Gu & Dao 2312.00752; Yang, Kautz, Hatamizadeh 2412.06464; bounded Kimi 2510.26692
struct MambaGate {
  template <class T>
  struct In {
    T x, a_log, dt_bias;
  };
  template <class T>
  struct Out {
    T g;
  };
  struct Attrs {
    double lower_bound = 0;
    void fields(auto&& f) const { f("lower_bound", lower_bound, "low, least g; 0: none"); }
  };
};

}  // namespace ls::ops
