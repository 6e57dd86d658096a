#pragma once
// Chunk by chunk: operands with their decays, what reads meet of writes inside the chunk, and the
// inverse of the triangular system of what is erased. A block is a slot, a state head and one of
// its queries; that of the first query makes what does not depend on queries too.
#include "core/ops/common/linear_scan/decays.h"

namespace ls::ops::linear_scan {

template <class T, class Y>
struct Prepare {
  using A = acc_t<T>;
  static constexpr int C = Call<T, Y>::C;
  struct Shared {
    Decays<A> decays;
    Tile<A, C, kTile> q, k, e, b;
    Tile<A, C, C> p, pb, mk, mb, inverse;
    A q_norm[C], k_norm[C];
  };

  LS_ON_DEVICE static void run(const Block& block, const Call<T, Y>& call, Shared* shared) {
    const Slot s = call.slots[block.x];
    if (s.length > 0) {
      Prepare(block, call, *shared, s).all();
    }
  }

 private:
  LS_ON_DEVICE Prepare(const Block& block, const Call<T, Y>& call, Shared& m, const Slot& s)
      : block_(block), call_(call), m_(m), s_(s), h_(block.y), j_(block.z), first_(j_ == 0) {}

  LS_ON_DEVICE void all() {
    load_norms(block_, call_, s_, call_.q, call_.query_of(h_, j_), m_.q_norm);
    load_norms(block_, call_, s_, call_.k, call_.key_of(h_), m_.k_norm);
    block_.each(C * C, [&](int e) {
      m_.p(e / C, e % C) = m_.pb(e / C, e % C) = 0;
      m_.mk(e / C, e % C) = m_.mb(e / C, e % C) = 0;
    });
    for (Index i0 = 0; i0 < call_.dk; i0 += kTile) {
      block_.sync();
      load(i0);
      block_.sync();
      m_.decays.sum(block_);
      block_.sync();
      store_decayed(i0);
      block_.each(C * C, [&](int e) { scores(i0, e / C, e % C); });
    }
    block_.sync();
    if (first_ && call_.erases()) {
      invert();
      block_.sync();
    }
    store_scores();
  }

  LS_ON_DEVICE void load(Index i0) {
    load_row_decays(block_, call_, s_, h_, i0, m_.decays);
    load_rows(block_, call_, s_, call_.q, call_.query_of(h_, j_), i0, m_.q_norm, m_.q);
    const Index hk = call_.key_of(h_);
    load_rows(block_, call_, s_, call_.k, hk, i0, m_.k_norm, m_.k);
    if (call_.low_rank()) {
      load_rows<T, Y, A>(block_, call_, s_, call_.a, hk, i0, nullptr, m_.e);
      load_rows<T, Y, A>(block_, call_, s_, call_.b, hk, i0, nullptr, m_.b);
    }
  }

  /// Token before which the state is that a query, or what erases, reads: itself or the one before.
  LS_ON_DEVICE int query_level(int t) const { return call_.exclusive ? t - 1 : t; }
  LS_ON_DEVICE int erase_level(int t) const { return call_.low_rank() ? t - 1 : t; }
  LS_ON_DEVICE A eraser(int t, int i) const { return call_.low_rank() ? m_.e(t, i) : m_.k(t, i); }

  LS_ON_DEVICE void store_decayed(Index i0) {
    const int width = static_cast<int>(call_.dk - i0 < kTile ? call_.dk - i0 : kTile);
    const int last = s_.length - 1;
    block_.each(s_.length * kTile, [&](int e) {
      const int t = e / kTile, i = e % kTile;
      if (i >= width) {
        return;
      }
      call_.q_in[call_.of_query(s_, t, h_, j_) * call_.dk + i0 + i] =
          call_.scale * m_.q(t, i) * m_.decays.in(query_level(t), i);
      if (!first_) {
        return;
      }
      const Index at = call_.of_state(s_, t, h_) * call_.dk + i0 + i;
      const A out = m_.decays.between(last, t, i);
      call_.k_out[at] = m_.k(t, i) * out;
      if (call_.erases()) {
        call_.e_in[at] = eraser(t, i) * m_.decays.in(erase_level(t), i);
      }
      if (call_.low_rank()) {
        call_.b_out[at] = m_.b(t, i) * out;
      }
      if (t == 0) {
        call_.all[at] = m_.decays.in(last, i);
      }
    });
  }

  /// What token t reads of the writes of token s, from kTile channels.
  LS_ON_DEVICE void scores(Index i0, int t, int s) {
    if (s > t || t >= s_.length) {
      return;
    }
    const int tq = query_level(t), te = erase_level(t);
    const bool reads = s <= tq, erased = first_ && call_.erases() && s < t;
    A p = 0, pb = 0, mk = 0, mb = 0;
    for (int i = 0; i < kTile; ++i) {
      const A at_q = reads ? m_.decays.between(tq, s, i) * m_.q(t, i) : A(0);
      p += at_q * m_.k(s, i);
      pb += call_.low_rank() ? at_q * m_.b(s, i) : A(0);
      if (erased) {
        const A at_e = m_.decays.between(te, s, i) * eraser(t, i);
        mk += at_e * m_.k(s, i);
        mb += call_.low_rank() ? at_e * m_.b(s, i) : A(0);
      }
      if (call_.u && s == t && i0 + i < call_.dk) {
        p += m_.q(t, i) * m_.k(t, i) * call_.u[h_ / call_.bonus_share * call_.dk + i0 + i];
      }
    }
    m_.p(t, s) += call_.scale * p;
    m_.pb(t, s) += call_.scale * pb;
    m_.mk(t, s) += mk;
    m_.mb(t, s) += mb;
  }

  /// Column by column, by substitution.
  LS_ON_DEVICE void invert() {
    A* const weight = m_.k_norm;  // used no more
    block_.each(s_.length, [&](int t) { weight[t] = call_.weight_of(s_, t, h_); });
    block_.sync();
    block_.each(C, [&](int j) {
      for (int t = 0; t < s_.length; ++t) {
        A sum = t == j ? A(1) : A(0);
        for (int s = j; s < t; ++s) {
          const A n = call_.low_rank() ? -m_.mb(t, s) : m_.mk(t, s) * weight[s];
          sum -= n * m_.inverse(s, j);
        }
        m_.inverse(t, j) = sum;
      }
    });
  }

  LS_ON_DEVICE void store_scores() {
    block_.each(s_.length * C, [&](int e) {
      const int t = e / C, s = e % C;
      const Index query = call_.of_query(s_, t, h_, j_) * C + s;
      call_.p[query] = m_.p(t, s);
      if (call_.low_rank()) {
        call_.pb[query] = m_.pb(t, s);
      }
      if (first_ && call_.erases()) {
        const Index at = call_.of_state(s_, t, h_) * C + s;
        call_.mk[at] = m_.mk(t, s);
        call_.solve[at] = s <= t ? m_.inverse(t, s) : A(0);
        if (call_.low_rank()) {
          call_.mb[at] = m_.mb(t, s);
        }
      }
    });
  }

  const Block& block_;
  const Call<T, Y>& call_;
  Shared& m_;
  const Slot& s_;
  const Index h_, j_;
  const bool first_;
};

}  // namespace ls::ops::linear_scan
