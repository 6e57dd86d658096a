#pragma once
// The recurrence of which decayed_linear and delta_rule are special cases, in double, token by
// token: their oracle. One sequence and head; vectors are rows of t.
//   D_t(S) = diag(exp(row_t)) S diag(exp(column_t))          decays of key and value channels
//   S_t = D_t(S_{t-1}) + b_t (X^T a_t)^T + k_t v_t^T          X the state before or after its decay
//   o_t = scale q_t S_t, or before the write scale (q_t S_{t-1} + (q_t . (u * k_t)) v_t)
//   with a normaliser, o_t over scale q_t z_t + eps: z_t is a column whose values are 1
#include <cmath>
#include <vector>

#include "core/tensor/view.h"

namespace ls::test {

struct GeneralRecurrence {
  Index tokens = 0, dk = 0, dv = 0;
  Buffer<double, 2> q, k, v, a, b, row, column;  ///< [T,Dk] or [T,Dv], zero where not set
  Buffer<double> u;                              ///< [Dk]
  Buffer<double, 2> state;                       ///< [Dk,Dv]: S_0, then S_T
  bool erases_decayed = false;                   ///< a reads what has decayed
  bool exclusive = false;                        ///< the read comes before the write
  bool normalize = false;
  double scale = 1, eps = 0;

  GeneralRecurrence(Index t, Index keys, Index values)
      : tokens(t),
        dk(keys),
        dv(values),
        q(t, keys),
        k(t, keys),
        v(t, values),
        a(t, keys),
        b(t, keys),
        row(t, keys),
        column(t, values),
        u(keys),
        state(keys, values) {}

  /// Outputs [T,Dv]; `state` becomes S_T.
  Buffer<double, 2> run() {
    Buffer<double, 2> o(tokens, dv);
    for (Index t = 0; t < tokens; ++t) {
      if (exclusive) {
        read(t, o);
      }
      step(t);
      if (!exclusive) {
        read(t, o);
      }
      for (Index c = 0; exclusive && c < dv; ++c) {
        for (Index i = 0; i < dk; ++i) {
          o(t, c) += scale * q(t, i) * u(i) * k(t, i) * v(t, c);
        }
      }
      // The last value channel is the normaliser's.
      for (Index c = 0; normalize && c + 1 < dv; ++c) {
        o(t, c) /= o(t, dv - 1) + eps;
      }
    }
    return o;
  }

 private:
  void read(Index t, Buffer<double, 2>& o) const {
    for (Index i = 0; i < dk; ++i) {
      for (Index c = 0; c < dv; ++c) {
        o(t, c) += scale * q(t, i) * state(i, c);
      }
    }
  }
  void step(Index t) {
    const Buffer<double, 2> before = copy(state);
    for (Index i = 0; i < dk; ++i) {
      for (Index c = 0; c < dv; ++c) {
        state(i, c) *= std::exp(row(t, i) + column(t, c));
      }
    }
    const Buffer<double, 2> decayed = copy(state);
    const Buffer<double, 2>& x = erases_decayed ? decayed : before;
    for (Index c = 0; c < dv; ++c) {
      double erased = 0;
      for (Index i = 0; i < dk; ++i) {
        erased += a(t, i) * x(i, c);
      }
      for (Index i = 0; i < dk; ++i) {
        state(i, c) += b(t, i) * erased + k(t, i) * v(t, c);
      }
    }
  }
  Buffer<double, 2> copy(const Buffer<double, 2>& from) const {
    Buffer<double, 2> to(dk, dv);
    std::copy(from.data(), from.data() + dk * dv, to.data());
    return to;
  }
};

}  // namespace ls::test
