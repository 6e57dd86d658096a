#pragma once
// What the two loops over the chunks of a sequence share: forward with the state (forward.h), and
// backward with its gradient (reverse.h). A block is a sequence, a state head and kTile columns.
#include "core/ops/common/linear_scan/decays.h"

namespace ls::ops::linear_scan {

/// What the two loops share.
template <class T, class Y>
struct StatesShared {
  using A = acc_t<T>;
  static constexpr int C = Call<T, Y>::C;
  Tile<A, C, kTile> rows, x, y, r;
  Tile<A, C, C> m;
  Decays<A> columns;
  A weight[C];
};

template <class T, class Y>
class StatesLoop {
 public:
  using A = acc_t<T>;
  static constexpr int C = Call<T, Y>::C;
  using Shared = StatesShared<T, Y>;
  using Chunk = Tile<A, C, kTile>;
  /// Of a state's columns, rows padded to whole tiles; behind them what the rows decay by.
  static Index state_elements(const Call<T, Y>& call) {
    return call.key_tiles() * kTile * (kTile + 2);
  }

 protected:
  LS_ON_DEVICE StatesLoop(const Block& block, const Call<T, Y>& call, Shared& m, A* state)
      : block_(block),
        call_(call),
        m_(m),
        state_(state),
        seq_(call.sequences.at[block.x]),
        h_(block.y),
        c0_(block.z * kTile) {}

  LS_ON_DEVICE A& state(Index i, int c) { return state_[i * (kTile + 1) + c]; }
  LS_ON_DEVICE Index column(int c) const { return c0_ + c; }
  LS_ON_DEVICE bool inside(int c) const { return c0_ + c < call_.dv; }
  /// f(i, c) for all elements of the columns, by its thread.
  template <class F>
  LS_ON_DEVICE void each_of_state(F&& f) {
    block_.each(static_cast<int>(call_.key_tiles()) * kTile * kTile,
                [&](int e) { f(static_cast<Index>(e / kTile), e % kTile); });
  }
  /// Channels i0 .. of [..,heads,Dk] at `base`, of a chunk's queries or states.
  LS_ON_DEVICE void load_states(const A* base, const Slot& s, Index i0, Chunk& to) {
    cuda::fill(block_, to, [&](int t, int i) {
      const bool there = t < s.length && i0 + i < call_.dk;
      return there ? base[call_.of_state(s, t, h_) * call_.dk + i0 + i] : A(0);
    });
  }
  LS_ON_DEVICE void load_queries(const Slot& s, Index j, Index i0, Chunk& to) {
    cuda::fill(block_, to, [&](int t, int i) {
      const bool there = t < s.length && i0 + i < call_.dk;
      return there ? call_.q_in[call_.of_query(s, t, h_, j) * call_.dk + i0 + i] : A(0);
    });
  }
  /// [..,C] at `base`: row t of the matrix belongs to token t.
  LS_ON_DEVICE void load_matrix(const A* base, const Slot& s) {
    cuda::fill(block_, m_.m, [&](int t, int u) {
      return t < s.length && u < s.length ? base[call_.of_state(s, t, h_) * C + u] : A(0);
    });
  }
  LS_ON_DEVICE void load_query_matrix(const A* base, const Slot& s, Index j) {
    cuda::fill(block_, m_.m, [&](int t, int u) {
      return t < s.length && u < s.length ? base[call_.of_query(s, t, h_, j) * C + u] : A(0);
    });
  }
  LS_ON_DEVICE void load_values(const Slot& s, Chunk& to) {
    cuda::fill(block_, to, [&](int t, int c) {
      return t < s.length && inside(c) ? call_.value_of(s, t, h_, column(c)) : A(0);
    });
  }
  /// Weights, and decays of columns where there are any.
  LS_ON_DEVICE void begin(const Slot& s) {
    block_.sync();
    block_.each(C, [&](int t) { m_.weight[t] = t < s.length ? call_.weight_of(s, t, h_) : A(0); });
    if (call_.gv) {
      load_column_decays(block_, call_, s, h_, c0_, m_.columns);
      block_.sync();
      m_.columns.sum(block_);
    }
    block_.sync();
  }
  LS_ON_DEVICE A columns_in(int t, int c) const { return call_.gv ? m_.columns.in(t, c) : A(1); }
  LS_ON_DEVICE A columns_between(int t, int s, int c) const {
    return call_.gv ? m_.columns.between(t, s, c) : A(1);
  }
  LS_ON_DEVICE int query_level(int t) const { return call_.exclusive ? t - 1 : t; }
  /// to = m from, or to = m^T from, times `sign`, added to what `to` holds; a sync must follow.
  template <bool kTransposed>
  LS_ON_DEVICE void add_product(A sign, const Chunk& from, Chunk& to) {
    cuda::product<A, C, kTile, C>(
        block_, [&](int t, int s) { return kTransposed ? m_.m(s, t) : m_.m(t, s); },
        [&](int s, int c) { return from(s, c); },
        [&](int t, int c, A sum) { to(t, c) += sign * sum; });
  }
  /// to += rows[C,kTile] state[i0..]; behind and before a sync.
  LS_ON_DEVICE void add_read(Index i0, Chunk& to) {
    cuda::product<A, C, kTile, kTile>(
        block_, [&](int t, int i) { return m_.rows(t, i); },
        [&](int i, int c) { return state(i0 + i, c); },
        [&](int t, int c, A sum) { to(t, c) += sum; });
  }
  /// state[i0..] += sign rows^T from; behind and before a sync.
  LS_ON_DEVICE void add_write(Index i0, A sign, const Chunk& from) {
    cuda::product<A, kTile, kTile, C>(
        block_, [&](int i, int t) { return m_.rows(t, i); },
        [&](int t, int c) { return from(t, c); },
        [&](int i, int c, A sum) { state(i0 + i, c) += sign * sum; });
  }
  LS_ON_DEVICE void clear(Chunk& x) {
    cuda::fill(block_, x, [](int, int) { return A(0); });
  }
  /// The state times exp(G_C); a sync must follow.
  LS_ON_DEVICE void decay(const Slot& s) {
    const Index at = call_.of_state(s, 0, h_) * call_.dk;
    const auto rows = static_cast<int>(call_.key_tiles()) * kTile;
    A* const factor = state_ + rows * (kTile + 1);
    block_.each(rows, [&](int i) { factor[i] = i < call_.dk ? call_.all[at + i] : A(0); });
    block_.sync();
    each_of_state([&](Index i, int c) { state(i, c) *= factor[i] * columns_in(s.length - 1, c); });
  }

  const Block& block_;
  const Call<T, Y>& call_;
  Shared& m_;
  A* const state_;
  const Stretch seq_;
  const Index h_, c0_;
};

}  // namespace ls::ops::linear_scan
