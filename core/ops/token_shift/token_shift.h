#pragma once
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// Difference to the previous token, y_t = x_{t-1} - x_t: layers mix x_t + mu y_t with shares mu.
/// @shape  x [B,T,D]  s0 [N,D] or absent (0): the token before the first  offsets [N+1]
///         -> y [B,T,D]  sT [B,D]: the last token
/// @dtype  x, y any one float; states acc
/// @grad   exact for x and s0
/// @forms  one; form and chunk change nothing
/// @source RWKV, Peng 2305.13048 (mix), 2404.05892 (difference)
struct TokenShift {
  template <class T>
  struct In {
    T x, s0, offsets;
  };
  template <class T>
  struct Out {
    T y, sT;
  };
  struct Attrs : ScanAttrs {};
};

}  // namespace ls::ops
