#pragma once
#include "core/base/types.h"

namespace ls::ops {

/// Layer norm of each of num_groups contiguous channel groups (heads) of a token, then a gain and
/// bias per channel; the output norm of RetNet, RWKV and xLSTM. An optional gate z as in LayerNorm.
/// @shape  x [...,D], weight, bias [D] or absent (1, 0), z [...,D] or absent -> y [...,D], mean and
///         rstd [...,num_groups]
/// @dtype  x, z, y any one float; weight, bias, mean, rstd acc; computed in acc
/// @grad   exact, through mean and rstd too; weight and bias are summed over rows in acc
/// @throws Error(Shape) when num_groups does not divide D
/// @source Wu & He 1803.08494, per token
struct GroupNorm {
  template <class T>
  struct In {
    T x, weight, bias, z;
  };
  template <class T>
  struct Out {
    T y, mean, rstd;
  };
  struct Attrs {
    Index num_groups = 1;
    double eps = 1e-5;
    bool norm_before_gate = true;
    void fields(auto&& f) const {
      f("num_groups", num_groups, "groups of channels");
      f("eps", eps, "added to the variance");
      f("norm_before_gate", norm_before_gate, "the gate stands behind the norm");
    }
  };
};

}  // namespace ls::ops
