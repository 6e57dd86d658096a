#pragma once
#include <algorithm>

#include "core/base/types.h"
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// Softmax attention in blocks; no Tq x Tk matrix is held.
///   o_i = sum_j p_ij v_j
///   p_ij = softmax over visible j of cap(scale q_i k_j) - slope (i - j) + bias_ij
/// Keys are the carried k0 followed by k. Query t has position i = T0 + t + q_offset among them.
/// With `used`, k0 is a buffer of which so many rows hold keys, which then stand for T0; k is put
/// behind them.
/// Key j is visible to it when j < prefix, or (not causal or j <= i) and (window = 0 or
/// i - j < window); never when j is before the query's start or in another packed document. Query
/// head h reads head h / (HQ / H).
/// @shape  q [B,Tq,HQ,Dk]  k [B,Tk,H,Dk]  v [B,Tk,H,Dv]  k0 [B,T0,H,Dk], v0 [B,T0,H,Dv] or absent
///         start [B,Tq] or absent: first visible key, in coordinates where k is 0.. and k0 is
///         negative  sink [HQ]: one more logit in the denominator  slopes [HQ]: linear bias
///         bias [HQ,Tq,T0+Tk]  offsets [N+1]: packed documents, B = 1  used []: 0 .. T0-Tk
///         -> o [B,Tq,HQ,Dv]  lse [B,Tq,HQ]  kT, vT: k0 and k, v0 and v, or their last window-1
///         rows; with `used` all rows of the buffers
/// @dtype  q, k, v, caches any one float; lse, sink, slopes, bias and sums acc
/// @grad   hand-written for q, k, v, k0, v0, sink, bias; keeps lse; a query that sees nothing
///         gives 0
/// @forms  blocks of 64 x 64 always; form and chunk change nothing
/// @source Vaswani 2017; blocks as Dao 2205.14135
struct Attention {
  template <class T>
  struct In {
    T q, k, v, k0, v0, start, sink, slopes, bias, offsets, used;
  };
  template <class T>
  struct Out {
    T o, lse, kT, vT;
  };
  struct Attrs : ScanAttrs {
    double scale = 1;
    bool causal = true;
    Index window = 0;
    double softcap = 0;
    Index prefix = 0;
    Index q_offset = 0;
    /// How many of `keys` keys go out as the cache.
    Index kept(Index keys) const { return window > 0 ? std::min(keys, window - 1) : keys; }
    void fields(auto&& f) const {
      ScanAttrs::fields(f);
      f("scale", scale, "factor on q k");
      f("causal", causal, "a query sees no later key");
      f("window", window, "how many keys a query sees, its own among them; 0: all");
      f("softcap", softcap, "c tanh(x / c) of scores; 0: none");
      f("prefix", prefix, "keys that every query sees");
      f("q_offset", q_offset, "added to the positions of queries");
    }
  };
};

}  // namespace ls::ops
