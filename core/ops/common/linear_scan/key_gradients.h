#pragma once
// Chunk by chunk and kTile key channels at a time: gradients of queries, keys, erase and write
// vectors, bonus and row decays. A block is a slot, a state head and a tile of channels.
//
// What token s writes and token t reads carries exp(G_t - G_s), so the gradient of a token's decay
// is the sum over the pairs that it lies between, the incoming state being written before all
// tokens and the outgoing one read after all. Such sums keep their digits however small the factor
// is; differences of running sums would lose them.
#include "core/ops/common/linear_scan/decays.h"

namespace ls::ops::linear_scan {

template <class T, class Y>
class KeyGradients {
 public:
  using A = acc_t<T>;
  static constexpr int C = Call<T, Y>::C;
  static constexpr int kGroups = 4;  ///< of tokens that write, each a warp's
  struct Shared {
    Decays<A> decays;
    Tile<A, C, kTile> q, k, e, b, in, out;
    Tile<A, C, kTile> gq, ge, gk, gb, past, carried;
    Tile<A, C, C> gp, gpb, gmk, gmb;
    Tile<A, kTile, kTile> state, gstate;
    Tile<A, C, kTile> gq_of[kGroups], ge_of[kGroups], gg_of[kGroups];
    A through[kTile], q_norm[C], k_norm[C], weight[C];
  };

  LS_ON_DEVICE static void run(const Block& block, const Call<T, Y>& call, Shared* shared) {
    const Slot s = call.slots[block.x];
    if (s.length > 0) {
      KeyGradients(block, call, *shared, s).all();
    }
  }

 private:
  LS_ON_DEVICE KeyGradients(const Block& block, const Call<T, Y>& call, Shared& m, const Slot& s)
      : block_(block), call_(call), m_(m), s_(s), h_(block.y), i0_(block.z * kTile) {}

  LS_ON_DEVICE void all() {
    const Index hk = call_.key_of(h_);
    load_norms(block_, call_, s_, call_.k, hk, m_.k_norm);
    block_.each(C,
                [&](int t) { m_.weight[t] = t < s_.length ? call_.weight_of(s_, t, h_) : A(0); });
    load_row_decays(block_, call_, s_, h_, i0_, m_.decays);
    block_.sync();
    m_.decays.sum(block_);
    load_rows(block_, call_, s_, call_.k, hk, i0_, m_.k_norm, m_.k);
    if (call_.low_rank()) {
      load_rows<T, Y, A>(block_, call_, s_, call_.a, hk, i0_, nullptr, m_.e);
      load_rows<T, Y, A>(block_, call_, s_, call_.b, hk, i0_, nullptr, m_.b);
    }
    block_.each(C * kTile, [&](int e) {
      const int t = e / kTile, i = e % kTile;
      m_.gk(t, i) = m_.gb(t, i) = m_.ge(t, i) = m_.past(t, i) = m_.carried(t, i) = 0;
      for (int n = 0; n < kGroups; ++n) {
        m_.gg_of[n](t, i) = m_.ge_of[n](t, i) = 0;
      }
    });
    block_.each(kTile, [&](int i) { m_.through[i] = 0; });
    block_.sync();
    through_states();
    for (Index j = 0; j < call_.group; ++j) {
      query(j);
    }
    block_.sync();
    finish();
  }

  LS_ON_DEVICE bool inside(int i) const { return i0_ + i < call_.dk; }
  LS_ON_DEVICE int query_level(int t) const { return call_.exclusive ? t - 1 : t; }
  LS_ON_DEVICE int erase_level(int t) const { return call_.low_rank() ? t - 1 : t; }
  LS_ON_DEVICE A eraser(int t, int i) const { return call_.low_rank() ? m_.e(t, i) : m_.k(t, i); }

  /// Rows of values [C,kTile] from column c0 on, times the decay of their columns.
  template <class F>
  LS_ON_DEVICE void load_values(Index c0, Tile<A, C, kTile>& to, F&& f) {
    cuda::fill(block_, to, [&](int t, int c) {
      return t < s_.length && c0 + c < call_.dv ? f(t, c0 + c) : A(0);
    });
  }
  LS_ON_DEVICE void load_state(Index c0) {
    cuda::fill(block_, m_.state, [&](int i, int c) {
      return inside(i) && c0 + c < call_.dv ? call_.state_before(s_, h_, i0_ + i, c0 + c) : A(0);
    });
  }
  LS_ON_DEVICE void load_gradient(Index c0) {
    cuda::fill(block_, m_.gstate, [&](int i, int c) {
      return inside(i) && c0 + c < call_.dv ? call_.gradient_after(s_, h_, i0_ + i, c0 + c) : A(0);
    });
  }
  /// to += sign rows state^T.
  LS_ON_DEVICE void add_read(A sign, const Tile<A, C, kTile>& rows,
                             const Tile<A, kTile, kTile>& state, Tile<A, C, kTile>& to) {
    cuda::product<A, C, kTile, kTile>(
        block_, [&](int t, int c) { return rows(t, c); }, [&](int c, int i) { return state(i, c); },
        [&](int t, int i, A sum) { to(t, i) += sign * sum; });
  }
  LS_ON_DEVICE A row_of(const A* base, int t, Index c) const {
    return base[call_.of_state(s_, t, h_) * call_.dv + c];
  }
  /// exp of the log-decays of column c from token `from` (not itself) to token `to`, by a plain
  /// walk: column decays are rare.
  LS_ON_DEVICE A columns(int from, int to, Index c) const {
    A sum = 0;
    for (int t = from + 1; call_.gv && t <= to; ++t) {
      sum += call_.gv.at(s_.row, s_.token + t, h_)[c];
    }
    return std::exp(sum);
  }

  /// What goes through the states before and after the chunk: gk, gb, ge, past, carried, through.
  LS_ON_DEVICE void through_states() {
    const int last = s_.length - 1;
    const bool key = call_.erase == Erase::kKey;
    for (Index c0 = 0; c0 < call_.dv; c0 += kTile) {
      block_.sync();
      load_state(c0);
      load_gradient(c0);
      load_values(c0, m_.out, [&](int t, Index c) {
        const A y = key ? row_of(call_.y, t, c) : call_.value_of(s_, t, h_, c);
        return (call_.low_rank() ? A(1) : m_.weight[t]) * y * columns(t, last, c);
      });
      if (call_.erases()) {
        load_values(c0, m_.in, [&](int t, Index c) { return row_of(call_.z, t, c); });
      }
      block_.sync();
      add_read(A(1), m_.out, m_.gstate, m_.gk);
      if (call_.erases()) {
        add_read(key ? A(-1) : A(1), m_.in, m_.state, m_.ge);
      }
      block_.each(kTile, [&](int i) {
        for (int c = 0; c < kTile; ++c) {
          const A decay = c0 + c < call_.dv ? columns(-1, last, c0 + c) : A(0);
          m_.through[i] += m_.state(i, c) * m_.gstate(i, c) * decay;
        }
      });
      if (call_.low_rank()) {
        block_.sync();
        load_values(c0, m_.out, [&](int t, Index c) { return row_of(call_.y, t, c); });
        block_.sync();
        add_read(A(1), m_.out, m_.gstate, m_.gb);
      }
    }
    block_.sync();
    block_.each(s_.length * kTile, [&](int e) { with_decays(e / kTile, e % kTile); });
    block_.each(kTile, [&](int i) { m_.through[i] *= m_.decays.in(last, i); });
  }
  LS_ON_DEVICE void with_decays(int t, int i) {
    const A out = m_.decays.between(s_.length - 1, t, i);
    m_.gk(t, i) *= out;
    m_.gb(t, i) *= out;
    m_.past(t, i) = m_.k(t, i) * m_.gk(t, i);
    if (call_.low_rank()) {
      m_.past(t, i) += m_.b(t, i) * m_.gb(t, i);
    }
    if (call_.erases()) {
      const int level = erase_level(t);
      m_.ge(t, i) *= m_.decays.in(level, i);
      if (level >= 0) {
        m_.carried(level, i) += m_.ge(t, i) * eraser(t, i);
      }
    }
  }

  /// What goes through query j, and for the first one through what is erased.
  LS_ON_DEVICE void query(Index j) {
    block_.sync();
    load_norms(block_, call_, s_, call_.q, call_.query_of(h_, j), m_.q_norm);
    load_matrices(j);
    cuda::fill(block_, m_.gq, [](int, int) { return A(0); });
    block_.each(kGroups * C * kTile,
                [&](int e) { m_.gq_of[e / (C * kTile)](e / kTile % C, e % kTile) = 0; });
    block_.sync();
    load_rows(block_, call_, s_, call_.q, call_.query_of(h_, j), i0_, m_.q_norm, m_.q);
    for (Index c0 = 0; call_.go && c0 < call_.dv; c0 += kTile) {
      block_.sync();
      load_state(c0);
      load_values(c0, m_.in, [&](int t, Index c) {
        const Index head = h_ * call_.group + j;
        return convert<A>(call_.go.at(s_.row, s_.token + t, head)[c]) *
               columns(-1, query_level(t), c);
      });
      block_.sync();
      add_read(A(1), m_.in, m_.state, m_.gq);
    }
    block_.sync();
    block_.each(s_.length * kTile, [&](int e) {
      const int t = e / kTile, i = e % kTile, level = query_level(t);
      m_.gq(t, i) *= call_.scale * m_.decays.in(level, i);
      if (level >= 0) {
        m_.carried(level, i) += m_.gq(t, i) * m_.q(t, i);
      }
    });
    block_.each(kGroups * kTile, [&](int e) { pairs(e / kTile, e % kTile, j == 0); });
    block_.sync();
    store_query(j);
  }
  LS_ON_DEVICE void load_matrices(Index j) {
    cuda::each<C * C>(block_, [&](int e) {
      const int t = e / C, s = e % C;
      const bool there = t < s_.length && s < s_.length;
      const Index query = there ? call_.of_query(s_, t, h_, j) * C + s : 0;
      const Index at = there ? call_.of_state(s_, t, h_) * C + s : 0;
      const bool low = there && call_.low_rank();
      m_.gp(t, s) = there ? call_.scale * call_.gp[query] : A(0);
      m_.gpb(t, s) = low ? call_.scale * call_.gpb[query] : A(0);
      m_.gmk(t, s) = there && call_.erases() ? call_.gmk[at] : A(0);
      m_.gmb(t, s) = low ? call_.gmb[at] : A(0);
    });
  }

  /// Writes of every kGroups-th token s, channel i: what later tokens read of them.
  LS_ON_DEVICE void pairs(int group, int i, bool erased) {
    const int shift_q = call_.exclusive ? 1 : 0, shift_e = call_.low_rank() ? 1 : 0;
    const int n = s_.length;
    Tile<A, C, kTile>&gq = m_.gq_of[group], &ge = m_.ge_of[group], &gg = m_.gg_of[group];
    for (int s = group; s < n; s += kGroups) {
      const A k = m_.k(s, i), b = call_.low_rank() ? m_.b(s, i) : A(0);
      A gk = 0, gb = 0, past = erased ? m_.past(s, i) : A(0);
      // Reads of the state after token t.
      for (int t = n - 1; t >= s; --t) {
        const A decay = m_.decays.between(t, s, i);
        A w = 0;
        if (const int tq = t + shift_q; tq < n) {
          const A p = m_.gp(tq, s) * decay, pb = m_.gpb(tq, s) * decay, q = m_.q(tq, i);
          gq(tq, i) += p * k + pb * b;
          gk += p * q;
          gb += pb * q;
          w += q * (p * k + pb * b);
        }
        if (const int te = t + shift_e; erased && call_.erases() && te < n && te > s) {
          const A mk = m_.gmk(te, s) * decay, mb = m_.gmb(te, s) * decay, e = eraser(te, i);
          ge(te, i) += mk * k + mb * b;
          gk += mk * e;
          gb += mb * e;
          w += e * (mk * k + mb * b);
        }
        if (t > s) {
          past += w;
          gg(t, i) += past;
        }
      }
      m_.gk(s, i) += gk;
      m_.gb(s, i) += gb;
      bonus(s, i, gq);
    }
  }
  /// What token s reads of its own write beside the state.
  LS_ON_DEVICE void bonus(int s, int i, Tile<A, C, kTile>& gq) {
    if (call_.u && inside(i)) {
      const A u = call_.u[h_ / call_.bonus_share * call_.dk + i0_ + i], p = m_.gp(s, s);
      gq(s, i) += p * u * m_.k(s, i);
      m_.gk(s, i) += p * u * m_.q(s, i);
      m_.in(s, i) = p * m_.q(s, i) * m_.k(s, i);
    }
  }

  LS_ON_DEVICE void store_query(Index j) {
    block_.each(s_.length * kTile, [&](int e) {
      const int t = e / kTile, i = e % kTile;
      if (inside(i)) {
        A sum = m_.gq(t, i);
        for (int n = 0; n < kGroups; ++n) {
          sum += m_.gq_of[n](t, i);
        }
        call_.gq[call_.of_query(s_, t, h_, j) * call_.dk + i0_ + i] = sum;
      }
    });
    if (call_.gu_slot) {
      block_.each(kTile, [&](int i) {
        const Index at = (block_.x * call_.heads + h_) * call_.dk + i0_ + i;
        A sum = j > 0 && inside(i) ? call_.gu_slot[at] : A(0);
        for (int t = 0; t < s_.length && inside(i); ++t) {
          sum += m_.in(t, i);
        }
        if (inside(i)) {
          call_.gu_slot[at] = sum;
        }
      });
    }
  }

  LS_ON_DEVICE void finish() {
    block_.each(s_.length * kTile, [&](int e) {
      const int t = e / kTile, i = e % kTile;
      if (!inside(i)) {
        return;
      }
      const Index at = call_.of_state(s_, t, h_) * call_.dk + i0_ + i;
      A ge = m_.ge(t, i);
      for (int n = 0; n < kGroups; ++n) {
        ge += m_.ge_of[n](t, i);
      }
      call_.gk_row[at] = m_.gk(t, i) + (call_.erase == Erase::kKey ? ge : A(0));
      if (call_.low_rank()) {
        call_.ga[at] = ge;
        call_.gb[at] = m_.gb(t, i);
      }
    });
    if (call_.dgk || call_.gg_tile) {
      block_.each(kTile, [&](int i) { decay_gradients(i); });
      block_.sync();
      block_.each(s_.length, [&](int t) { sum_channels(t); });
    }
  }
  /// m_.in = gradients of the decays of channel i.
  LS_ON_DEVICE void decay_gradients(int i) {
    A carried = m_.through[i];
    for (int t = s_.length - 1; t >= 0; --t) {
      carried += m_.carried(t, i);
      A sum = carried;
      for (int n = 0; n < kGroups; ++n) {
        sum += m_.gg_of[n](t, i);
      }
      m_.in(t, i) = sum;
      if (call_.dgk && inside(i)) {
        call_.dgk.at(s_.row, s_.token + t, h_)[i0_ + i] = sum;
      }
    }
  }
  LS_ON_DEVICE void sum_channels(int t) {
    if (call_.gg_tile) {
      A sum = 0;
      for (int i = 0; i < kTile && inside(i); ++i) {
        sum += m_.in(t, i);
      }
      call_.gg_tile[call_.of_state(s_, t, h_) * call_.key_tiles() + block_.z] = sum;
    }
  }

  const Block& block_;
  const Call<T, Y>& call_;
  Shared& m_;
  const Slot& s_;
  const Index h_, i0_;
};

}  // namespace ls::ops::linear_scan
