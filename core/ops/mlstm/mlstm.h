#pragma once
#include "core/op/scan_attrs.h"

namespace ls::ops {

/// Matrix LSTM: an additive memory with gates per head, divided by what its keys sum up to.
///   C_t = exp(f_t) C_{t-1} + exp(i_t) k_t v_t^T,   n_t = exp(f_t) n_{t-1} + exp(i_t) k_t
///   o_t = scale q_t C_t / (max(|scale q_t n_t|, 1) + eps exp(m_t))
/// i may be large, so states are kept times exp(-m_t), m_t = max(f_t + m_{t-1}, i_t) with m_0 = 0
/// unless given: m enters the result through eps alone. With `stabilize` false m is 0, for gates
/// i <= 0; with `normalize` false o_t = scale q_t C_t.
/// @shape  q, k [B,T,H,Dk]  v [B,T,H,Dv]  i, f [B,T,H]  c0 [N,H,Dk,Dv], n0 [N,H,Dk], m0 [N,H], each
///         or absent (0), m0 only with stabilize  offsets [N+1] -> o [B,T,H,Dv]  cT [B,H,Dk,Dv]
///         nT [B,H,Dk]  mT [B,H] with stabilize: c and n are the true states times exp(-m)
/// @units  i, f are natural logs of the gates, f <= 0
/// @dtype  q, k, v any one float; gates, states and sums acc
/// @grad   hand-written for all float inputs, through m too where eps or mT lets it count
/// @forms  recurrent; chunk (32 tokens unless given); parallel: one chunk, at most 8192 tokens.
///         auto: recurrent where no sequence is longer than a token, else chunk
/// @cost   4 T H Dk Dv + 2 T C H (Dk + Dv) flop in chunks of C; backward 2.5 times that, with T / C
///         states per sequence and head in memory while it runs
/// @source Beck 2405.04517 (exponential gate), Beck 2503.14376 (sigmoid gate, chunks); NOTES.md
struct Mlstm {
  template <class T>
  struct In {
    T q, k, v, i, f, c0, n0, m0, offsets;
  };
  template <class T>
  struct Out {
    T o, cT, nT, mT;
  };
  struct Attrs : ScanAttrs {
    double scale = 1;
    double eps = 0;
    bool stabilize = true;
    bool normalize = true;
    void fields(auto&& f) const {
      ScanAttrs::fields(f);
      f("scale", scale, "factor on q");
      f("eps", eps, "added to what outputs are divided by");
      f("stabilize", stabilize, "states are kept relative to a running maximum");
      f("normalize", normalize, "outputs are divided by what the keys sum up to");
    }
  };
};

}  // namespace ls::ops
