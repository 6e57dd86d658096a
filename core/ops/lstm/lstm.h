#pragma once
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// LSTM cell over a sequence: [i,f,g,o] = gx_t + bias + h_{t-1} R^T by heads, with i, f, o through
/// a sigmoid and g through tanh; c_t = f c_{t-1} + i g, h_t = o tanh(c_t).
/// @shape  gx [B,T,4D]: input part of the gates, blocks i, f, g, o of D channels
///         r [heads,4d,d], D = heads d  bias [4D] or absent  h0, c0 [N,D] or absent (0)
///         offsets [N+1] -> y [B,T,D]  hT, cT [B,D]
/// @dtype  gx, y any one float; r, bias, states and sums acc
/// @grad   hand-written for all float inputs; none through gates and cells, which are kept
/// @source Hochreiter & Schmidhuber 1997; Gers 2000; block-diagonal R as Poeppel 2412.07752
struct Lstm {
  template <class T>
  struct In {
    T gx, r, bias, h0, c0, offsets;
  };
  template <class T>
  struct Out {
    T y, hT, cT, gates, cells;
  };
  struct Attrs : ScanAttrs {};
};

}  // namespace ls::ops
