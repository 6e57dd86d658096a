#pragma once
#include "core/base/types.h"

namespace ls::ops {

/// Root-mean-square norm over groups of channels, with an optional gate in the same pass:
///   n(x) = x / sqrt(mean(x^2) + eps) * (weight_offset + weight)
///   y = n(x), n(x) act(z) (norm_before_gate) or n(x act(z)).
/// @shape  x [...,D], weight [D] or absent (1), z [...,D] or absent -> y [...,D], rstd [...,G]
///         with G = D / group_size groups (1 when group_size is 0); the weight spans all channels
/// @dtype  x, z, y any one float; weight and rstd acc; computed in acc
/// @grad   exact, none through rstd; the weight's is summed over rows in acc
/// @source Zhang & Sennrich 1910.07467
struct RmsNorm {
  template <class T>
  struct In {
    T x, weight, z;
  };
  template <class T>
  struct Out {
    T y, rstd;
  };
  struct Attrs {
    double eps = 1e-5;
    double weight_offset = 0;
    Index group_size = 0;
    bool norm_before_gate = true;
    bool gate_sigmoid = false;  ///< act is the sigmoid instead of SiLU
    void fields(auto&& f) const {
      f("eps", eps, "added to the mean of squares");
      f("weight_offset", weight_offset, "added to the weight");
      f("group_size", group_size, "channels of a group; 0: all");
      f("norm_before_gate", norm_before_gate, "the gate stands behind the norm");
      f("gate_sigmoid", gate_sigmoid, "the gate is a sigmoid instead of SiLU");
    }
  };
};

}  // namespace ls::ops
