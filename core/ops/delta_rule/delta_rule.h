#pragma once
#include "core/op/op.h"
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// Delta rule with an optional scalar gate:
///   S_t = exp(g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,  o_t = scale q_t S_t.
/// @shape  q, k [B,T,H,Dk]  v [B,T,HV,Dv]  beta [B,T,HV], or beta_v [B,T,HV,Dv]: one per value
///         channel  g [B,T,HV] or absent  s0 [N,HV,Dk,Dv] or absent  offsets [N+1]
///         -> o [B,T,HV,Dv]  sT [N,HV,Dk,Dv]; value head h uses key head h / (HV / H)
/// @units  g is the natural log of the decay per token, <= 0; stable for beta |k|^2 <= 2
/// @dtype  q, k, v, beta any one float; g, states and sums acc
/// @grad   hand-written for all float inputs; with qk_l2norm through x / sqrt(sum x^2 + 1e-6)
/// @forms  recurrent; chunk (32 tokens unless given); parallel: one chunk, at most 8192 tokens.
///         auto: recurrent where no sequence is longer than a token, else chunk
/// @cost   6 T HV Dk Dv + 2 T C (H Dk + HV Dv) flop in chunks of C; backward 3 times that, with
///         T / C states and T (2 Dv + C) values per sequence and head in memory while it runs
/// @source Schlag 2102.11174, Yang 2406.06484 (chunks), Yang 2412.06464 (gate); NOTES.md
struct DeltaRule {
  template <class T>
  struct In {
    T q, k, v, beta, beta_v, g, s0, offsets;
  };
  template <class T>
  struct Out {
    T o, sT;
  };
  static constexpr double kNormEps = 1e-6;
  struct Attrs : ScanAttrs {
    double scale = 1;
    bool qk_l2norm = false;
  };
};

}  // namespace ls::ops
