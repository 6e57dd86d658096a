#pragma once
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// Gated linear recurrence, channel by channel: h_t = exp(g_t) h_{t-1} + u_t.
/// @shape  u, g [B,T,D]  h0 [N,D] or absent (0)  offsets [N1] (common/sequences.h says what these
///         are) -> y [B,T,D], all h_t  hT [B,D], the last
/// @units  g is the natural log of the decay per token, <= 0
/// @dtype  u, y any one float; g, states and sums acc
/// @grad   exact for u, g, h0; that of g reads h_{t-1} from y, as it was rounded there
/// @forms  recurrent
/// @source Martin & Cundy 1709.04057 (GILR), Qin 2311.04823 (HGRN), Feng 2410.01201 (minGRU)
struct GatedScan {
  template <class T>
  struct In {
    T u, g, h0, offsets;
  };
  template <class T>
  struct Out {
    T y, hT;
  };
  struct Attrs : ScanAttrs {};
};

}  // namespace ls::ops
