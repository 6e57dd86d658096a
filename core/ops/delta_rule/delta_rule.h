#pragma once
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// Delta rule, gated by head or by key channel, and its diagonal-plus-low-rank form. With
/// D_t = exp(g_t) Diag(exp(gk_t)), either beta or a and b are given:
///   beta:  S_t = (I - beta_t k_t k_t^T) D_t S_{t-1} + beta_t k_t v_t^T
///   a, b:  S_t = (D_t + b_t a_t^T) S_{t-1} + k_t v_t^T
///   o_t = scale q_t S_t
/// So k reads what is erased from the decayed state, and a from the state before its decay; what
/// reads the decayed one is a = exp(g + gk) times it.
/// @shape  q, k [B,T,H,Dk]  v [B,T,HV,Dv]  beta [B,T,HV], or a, b [B,T,H,Dk]: erase and write
///         g [B,T,HV], gk [B,T,HV,Dk], each or absent  s0 [N,HV,Dk,Dv] or absent
///         offsets [N+1] -> o [B,T,HV,Dv]  sT [B,HV,Dk,Dv]; value head h uses the vectors of key
///         head h / (HV / H)
/// @units  g, gk are natural logs of decays per token, <= 0; stable for beta |k|^2 <= 2
/// @dtype  q, k, v, beta, a, b any one float; g, gk, states and sums acc
/// @grad   hand-written for all float inputs; with qk_l2norm, which leaves a and b as they are,
///         through x / sqrt(sum x^2 + 1e-6)
/// @forms  recurrent; chunk (32 tokens unless given); parallel: one chunk, at most 8192 tokens.
///         auto: recurrent where no sequence is longer than a token, else chunk
/// @cost   6 T HV Dk Dv + 2 T C (H Dk + HV Dv) flop in chunks of C; backward 3 times that, with
///         T / C states and T (2 Dv + C) values per sequence and head in memory while it runs
/// @source Schlag 2102.11174, Yang 2406.06484 (chunks), Yang 2412.06464 (gate), Kimi 2510.26692
///         (gate by channel), Peng 2503.14456 (a, b); NOTES.md
struct DeltaRule {
  template <class T>
  struct In {
    T q, k, v, beta, a, b, g, gk, s0, offsets;
  };
  template <class T>
  struct Out {
    T o, sT;
  };
  static constexpr double kNormEps = 1e-6;
  struct Attrs : ScanAttrs {
    double scale = 1;
    bool qk_l2norm = false;
    void fields(auto&& f) const {
      ScanAttrs::fields(f);
      f("scale", scale, "factor on q");
      f("qk_l2norm", qk_l2norm, "rows of q and k are divided by their lengths");
    }
  };
};

}  // namespace ls::ops
