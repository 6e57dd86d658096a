#pragma once
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// Depthwise causal convolution: y_t = act(bias + sum_j weight[:, j] x_{t-(W-1)+j}).
/// @shape  x [B,T,D]  weight [D,W]  bias [D] or absent  s0 [N,D,W-1] or absent (0): inputs before
///         the first, oldest first  offsets [N+1] -> y [B,T,D]  sT [B,D,W-1]: the last W-1 inputs;
/// @dtype  x, y any one float; weight, bias, states and sums acc
/// @grad   exact for x, weight, bias, s0; T may be shorter than W
struct ShortConv {
  template <class T>
  struct In {
    T x, weight, bias, s0, offsets;
  };
  template <class T>
  struct Out {
    T y, sT;
  };
  struct Attrs : ScanAttrs {
    bool silu = false;
    void fields(auto&& f) const {
      ScanAttrs::fields(f);
      f("silu", silu, "SiLU behind the convolution");
    }
  };
};

}  // namespace ls::ops
