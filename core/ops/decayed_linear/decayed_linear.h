#pragma once
#include "core/op/op.h"
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// Decayed linear attention: S_t = exp(g_t) S_{t-1} + k_t v_t^T, o_t = scale q_t S_t.
/// @shape  q [B,T,HQ,Dk]  k [B,T,H,Dk]  v [B,T,H,Dv]  g [B,T,H] or decay [H] or neither (no decay)
///         s0 [N,H,Dk,Dv] or absent (0)  offsets [N+1] -> o [B,T,HQ,Dv]  sT [N,H,Dk,Dv];
///         query head h reads state h / (HQ / H); N = B, or documents with offsets (then B = 1)
/// @units  g and decay are natural logs of the decay per token, <= 0
/// @dtype  q, k, v any one float; g, decay, states and sums acc
/// @grad   hand-written for q, k, v, g, s0; decay is a constant
/// @forms  recurrent; chunk (32 tokens unless given); parallel: one chunk, at most 8192 tokens.
///         auto: recurrent where no sequence is longer than a token, else chunk
/// @cost   2 T (HQ + H) Dk Dv + T C HQ (Dk + Dv) flop in chunks of C; backward 2.5 times that, with
///         T / C states per sequence and head in memory while it runs
/// @source Katharopoulos 2020 (no decay), Sun 2307.08621 (constant), Yang 2312.06635,
///         Dao & Gu 2405.21060 (per token)
struct DecayedLinear {
  template <class T>
  struct In {
    T q, k, v, g, decay, s0, offsets;
  };
  template <class T>
  struct Out {
    T o, sT;
  };
  struct Attrs : ScanAttrs {
    double scale = 1;
  };
};

}  // namespace ls::ops
