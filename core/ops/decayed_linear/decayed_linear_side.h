#pragma once
// One side of decayed_linear in chunks: its key channels, read by queries and written by keys, or
// its value channels, where outputs read what values wrote. Between what token j writes and token i
// reads a channel carries the decays of j < t <= i, or j < t < i where the read comes before the
// write; the pairs below the diagonal are those of common/pair_decays.h, and the diagonal has no
// decay.
#include <vector>

#include "core/ops/common/pair_decays.h"

namespace ls::ops::decayed_linear {

template <class A>
class Side {
 public:
  /// For chunks of at most `most` tokens, d channels, `readers` queries of the state. Without
  /// decays (`plain`) everything is products of matrices.
  void reserve(common::Workspace<A>& ws, Index most, Index d, Index readers, bool exclusive,
               bool plain) {
    d_ = d;
    plain_ = plain;
    reads_.assign(static_cast<std::size_t>(readers),
                  exclusive ? common::Reads::kBefore : common::Reads::kDecayed);
    if (!plain) {
      pairs_.reserve(ws, most, d, readers, 1);
    }
  }
  bool plain() const { return plain_; }
  /// c tokens; g(t, to) writes the log-decays [d] of token t.
  template <class G>
  void load(Index c, G&& g) {
    c_ = c;
    if (!plain_) {
      pairs_.load(c, g);
    }
  }
  /// The decay [d] of the whole chunk; null without decays.
  const A* all() const { return plain_ ? nullptr : pairs_.all(); }
  /// to [readers,c,d] = rows with the decays from the chunk's start to their read; to may be rows.
  void from_start(const A* rows, A* to) const {
    weigh(readers(), rows, to, [&](Index i) { return pairs_.in(i, reads_[0]); });
  }
  /// to [c,d] = rows with the decays from their write to the chunk's end.
  void to_end(const A* rows, A* to) const {
    weigh(1, rows, to, [&](Index j) { return pairs_.out(j); });
  }

  /// p [readers,c,c]: q_i . (D_ij k_j) for j < i, for j = i where `diagonal`, else 0.
  void scores(const A* q, const A* k, bool diagonal, A* p) {
    if (plain_) {
      small_gemm<false, true, A>(readers() * c_, c_, d_, A(1), q, d_, k, d_, A(0), p, c_);
      for (Index r = 0; r < readers() * c_; ++r) {
        std::fill(p + r * c_ + r % c_ + (diagonal ? 1 : 0), p + (r + 1) * c_, A(0));
      }
      return;
    }
    pairs_.scores(readers(), q, reads_.data(), 1, k, p);
    for (Index r = 0; diagonal && r < readers() * c_; ++r) {
      p[r * c_ + r % c_] = common::dot(d_, q + r * d_, k + r % c_ * d_);
    }
  }
  /// y_i += sum_{j <= i} m_ij D_ij k_j; m [readers,c,c] is 0 above its diagonal.
  void gather(const A* m, const A* k, A* y) {
    if (plain_) {
      small_gemm<false, false, A>(readers() * c_, d_, c_, A(1), m, c_, k, d_, A(1), y, d_);
      return;
    }
    pairs_.gather(readers(), reads_.data(), 1, k, m, y);
    for (Index r = 0; r < readers() * c_; ++r) {
      add(m[r * c_ + r % c_], k + r % c_ * d_, y + r * d_);
    }
  }

  /// What reads the incoming state and writes the outgoing one, and gradients of that.
  struct Ends {
    const A *qs, *dqs;  ///< from_start(q) [readers,c,d]; null gradient: none
    const A *ks, *dks;  ///< to_end(k) [c,d]
    const A* through;   ///< [d] gradient of log all()
  };
  /// Gradients of scores (m, 0 above the diagonal), from_start and to_end: added to dq, dk and,
  /// with decays, to dg [c,d], that of the log-decays; without them dq may be null.
  void gradients(const A* m, const A* q, const A* k, const Ends& ends, A* dq, A* dk, A* dg) {
    if (plain_) {
      small_gemm<true, false, A>(c_, d_, readers() * c_, A(1), m, c_, q, d_, A(1), dk, d_);
      add_rows(1, ends.dks, dk);
      if (dq) {
        small_gemm<false, false, A>(readers() * c_, d_, c_, A(1), m, c_, k, d_, A(1), dq, d_);
        add_rows(readers(), ends.dqs, dq);
      }
      return;
    }
    pairs_.gradients(readers(), q, reads_.data(), 1, k, m, dq, dk, dg);
    for (Index r = 0; r < readers() * c_; ++r) {
      const A f = m[r * c_ + r % c_];
      add(f, k + r % c_ * d_, dq + r * d_);
      add(f, q + r * d_, dk + r % c_ * d_);
    }
    if (ends.dqs) {
      add_weighed(readers(), ends.dqs, dq, [&](Index i) { return pairs_.in(i, reads_[0]); });
      pairs_.from_readers(0, c_, readers(), reads_.data(), ends.qs, ends.dqs, dg);
    }
    if (ends.dks) {
      add_weighed(1, ends.dks, dk, [&](Index j) { return pairs_.out(j); });
      pairs_.from_writers(0, c_, 1, ends.ks, ends.dks, dg);
    }
    for (Index t = 0; ends.through && t < c_; ++t) {
      add(A(1), ends.through, dg + t * d_);
    }
  }

 private:
  Index readers() const { return std::ssize(reads_); }
  void add(A f, const A* __restrict x, A* __restrict to) const {
    for (Index e = 0; e < d_; ++e) {
      to[e] += f * x[e];
    }
  }
  void add_rows(Index count, const A* __restrict x, A* __restrict to) const {
    for (Index e = 0; x && e < count * c_ * d_; ++e) {
      to[e] += x[e];
    }
  }
  template <class F>
  void add_weighed(Index count, const A* x, A* to, F&& factor) const {
    for (Index r = 0; r < count * c_; ++r) {
      const A* __restrict f = factor(r % c_);
      const A* __restrict from = x + r * d_;
      A* __restrict row = to + r * d_;
      for (Index e = 0; e < d_; ++e) {
        row[e] += f[e] * from[e];
      }
    }
  }
  template <class F>
  void weigh(Index count, const A* x, A* to, F&& factor) const {
    if (plain_) {
      std::copy(x, x + count * c_ * d_, to);
      return;
    }
    for (Index r = 0; r < count * c_; ++r) {
      const A *f = factor(r % c_), *from = x + r * d_;
      A* const row = to + r * d_;
#pragma omp simd
      for (Index e = 0; e < d_; ++e) {
        row[e] = f[e] * from[e];
      }
    }
  }

  Index d_ = 0, c_ = 0;
  bool plain_ = true;
  std::vector<common::Reads> reads_;
  common::PairDecays<A> pairs_;
};

}  // namespace ls::ops::decayed_linear
