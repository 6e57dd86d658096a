#pragma once
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// Selective scan: every channel writes to a state of its own, whose elements decay each at its own
/// rate.
///   h_t[d,s] = exp(dt_t[d] a[d,s]) h_{t-1}[d,s] + dt_t[d] x_t[d] b_t[s]
///   y_t[d] = sum_s c_t[s] h_t[d,s]
/// @shape  x [B,T,D]  dt [B,T,D]  a [D,S]  b, c [B,T,G,S], G a divisor of D: channel d reads group
///         d / (D / G)  s0 [N,D,S] or absent (0)  offsets [N+1] -> y [B,T,D]  sT [B,D,S]
/// @units  dt a are natural logs of decays, <= 0
/// @dtype  x, b, c any one float; steps dt, rates a, states and sums acc
/// @grad   hand-written for all float inputs; sums over channels in a fixed order
/// @forms  recurrent
/// @cost   6 T D S flop and T D S exponentials; backward 2.5 times that
/// @source Gu & Dao 2312.00752 (with the Euler step for b that its code has)
struct SelectiveScan {
  template <class T>
  struct In {
    T x, dt, a, b, c, s0, offsets;
  };
  template <class T>
  struct Out {
    T y, sT;
  };
  struct Attrs : ScanAttrs {};
};

}  // namespace ls::ops
