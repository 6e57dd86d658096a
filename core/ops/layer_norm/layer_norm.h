#pragma once
#include "core/base/types.h"

namespace ls::ops {

/// Layer norm over the last axis, with an optional gate in the same pass:
///   n(x) = (x - mean) / sqrt(var + eps) * weight + bias, var biased
///   y = n(x), n(x) silu(z) (norm_before_gate) or n(x silu(z)).
/// @shape  x [...,D], weight, bias [D] or absent (1, 0), z [...,D] or absent -> y [...,D], mean and
///         rstd = 1 / sqrt(var + eps) [...]
/// @dtype  x, z, y any one float; weight, bias, mean, rstd acc; computed in acc
/// @grad   exact, through mean and rstd too; weight and bias are summed over rows in acc
/// @source Ba, Kiros, Hinton 1607.06450
struct LayerNorm {
  template <class T>
  struct In {
    T x, weight, bias, z;
  };
  template <class T>
  struct Out {
    T y, mean, rstd;
  };
  struct Attrs {
    static constexpr Index num_groups = 1;
    double eps = 1e-5;
    bool norm_before_gate = true;
    void fields(auto&& f) const {
      f("eps", eps, "added to the variance");
      f("norm_before_gate", norm_before_gate, "the gate stands behind the norm");
    }
  };
};

}  // namespace ls::ops
