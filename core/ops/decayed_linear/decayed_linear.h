#pragma once
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// Decayed linear attention, with decays per head, key channel and value channel:
///   S_t = diag(exp(g_t + gk_t)) S_{t-1} diag(exp(gv_t)) + k_t v_t^T
///   o_t = scale q_t S_t, or where a bonus u is given, with the read before the write,
///   o_t = scale (q_t S_{t-1} + (q_t . (u * k_t)) v_t)
/// @shape  q [B,T,HQ,Dk]  k [B,T,HK,Dk]  v [B,T,H,Dv]  g [B,T,H] or decay [H] or neither
///         gk [B,T,H,Dk]  gv [B,T,H,Dv]  u [HU,Dk]  s0 [N,H,Dk,Dv]; each absent or not (decays 0,
///         state 0)  offsets [N+1] -> o [B,T,HO,Dv]  sT [B,H,Dk,Dv], HO the larger of HQ and H.
///         A state head belongs to each of the H value heads. HK and HU divide H: consecutive state
///         heads share a key and a bonus. HQ is a multiple of H, then query head h reads state
///         h / (HQ / H), or divides it, then state heads share a query.
/// @units  g, gk, gv and decay are natural logs of the decay per token, <= 0
/// @dtype  q, k, v any one float; decays, bonus, states and sums acc
/// @grad   hand-written for all but decay, which is a constant; sums over heads that share a key,
///         query or bonus are taken in the order of heads
/// @forms  recurrent; chunk (32 tokens unless given); parallel: one chunk, at most 8192 tokens.
///         auto: recurrent where no sequence is longer than a token, else chunk
/// @cost   2 T (HO + H) Dk Dv + T C HO (Dk + Dv) flop in chunks of C; backward 2.5 times that, with
///         T / C states per sequence and head in memory while it runs. Decays per channel (or a
///         bonus) add about 15 operations a token and channel for queries, keys or values each
/// @source Katharopoulos 2020 (no decay), Sun 2307.08621 (constant), Yang 2312.06635 (per token and
///         key channel), Dao & Gu 2405.21060 (shared keys), Peng 2404.05892 (bonus)
struct DecayedLinear {
  template <class T>
  struct In {
    T q, k, v, g, gk, gv, decay, u, s0, offsets;
  };
  template <class T>
  struct Out {
    T o, sT;
  };
  struct Attrs : ScanAttrs {
    double scale = 1;
    void fields(auto&& f) const {
      ScanAttrs::fields(f);
      f("scale", scale, "factor on q");
    }
  };
};

}  // namespace ls::ops
