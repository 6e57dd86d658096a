#pragma once
// What the passes of attention in blocks of threads share (attention_blocks.h): tiles of C queries
// by kTile keys, scores in shared memory.
#include <limits>

#include "core/ops/attention/attention.h"
#include "core/ops/common/block_rows.h"

namespace ls::ops::attention {

using common::blocks_of;
using common::kThreads;
using common::Rows;
using cuda::Block;
using cuda::Tile;

inline constexpr int kTile = 32;  ///< keys of a tile, and channels

template <class T>
struct Call {
  using A = acc_t<T>;
  static constexpr int C = sizeof(A) == 8 ? 16 : 32;  ///< queries of a tile
  Index batch = 0, queries = 0, own = 0, cache_rows = 0, q_heads = 0, group = 1, dk = 0, dv = 0;
  Index out_rows = 0;  ///< of kT and vT
  Index window = 0, prefix = 0, q_offset = 0;
  A scale = 1, softcap = 0;
  bool causal = true;
  Rows<const T> q, k, v, k0, v0, go, saved_o, gkT, gvT;
  Rows<T> o, kT, vT, dq, dk_, dv_, dk0, dv0;
  const std::int64_t *start = nullptr, *offsets = nullptr;
  const std::int64_t* used = nullptr;  ///< rows of the cache that hold keys, k behind them
  Index offset_count = 0;
  const A *sink = nullptr, *slopes = nullptr, *bias = nullptr, *lse_in = nullptr, *glse = nullptr;
  A *lse = nullptr, *dbias = nullptr, *dsink = nullptr;
  A* delta = nullptr;  ///< [B,Tq,HQ]: dO . O
  ErrorFlag* flag = nullptr;
  std::int32_t bad_use = 0, bad_start = 0;  ///< sources of its errors

  LS_ON_DEVICE bool bad_used() const { return used && (*used < 0 || *used > cache_rows - own); }
  LS_ON_DEVICE Index cached() const {
    return !used ? cache_rows : bad_used() ? 0 : static_cast<Index>(*used);
  }
  LS_ON_DEVICE Index keys() const { return cached() + own; }
  /// Keys before those of the outgoing cache.
  LS_ON_DEVICE Index dropped() const { return used ? 0 : keys() - out_rows; }
  /// The outgoing caches are the incoming ones: keys and values are put behind what they hold.
  LS_ON_DEVICE bool in_place() const { return used && kT.base == k0.base && vT.base == v0.base; }
  LS_ON_DEVICE Index position(Index t) const { return t + cached() + q_offset; }
  LS_ON_DEVICE Index row(Index b, Index t, Index h) const {
    return (b * queries + t) * q_heads + h;
  }
  /// Key j of all, those of the cache first; behind them the room of the cache.
  LS_ON_DEVICE const T* at(const Rows<const T>& cache, const Rows<const T>& rows, Index b, Index j,
                           Index h) const {
    return j < cached() || j >= keys() ? cache.at(b, j, h) : rows.at(b, j - cached(), h);
  }
  /// The keys first .. end - 1 that a query may see for its document and start.
  LS_ON_DEVICE void find_bounds(Index b, Index t, Index& first, Index& end) const {
    first = 0;
    end = keys();
    if (start) {
      const Index at = b * queries + t;
      if (start[at] > own && flag) {
        raise_error(flag, bad_start, at, start[at]);
      }
      first = cached() + start[at];
    }
    if (offsets) {
      Index low = 0, high = offset_count - 1;  // offsets[low] <= t < offsets[high]
      while (high - low > 1) {
        const Index middle = (low + high) / 2;
        (offsets[middle] <= t ? low : high) = middle;
      }
      first = offsets[low];
      end = offsets[high];
    }
  }
  LS_ON_DEVICE Index key_tiles() const { return (dk + kTile - 1) / kTile; }
  LS_ON_DEVICE Index value_tiles() const { return (dv + kTile - 1) / kTile; }
};

/// What the passes over pairs share: C queries of one head, kTile keys.
template <class T>
struct PairsShared {
  using A = acc_t<T>;
  static constexpr int C = Call<T>::C;
  Tile<A, C, kTile> x, s, slope, gs;
  Tile<A, kTile, kTile> y;
  Index first[C], end[C];
  A top[C], sum[C], factor[C], lse[C], delta[C];
};

template <class T>
class Pairs {
 public:
  using A = acc_t<T>;
  static constexpr int C = Call<T>::C;
  using Shared = PairsShared<T>;

 protected:
  LS_ON_DEVICE Pairs(const Block& block, const Call<T>& call, Shared& m, A* state)
      : block_(block), call_(call), m_(m), state_(state) {}

  /// The queries t0 .. of row b and head h.
  LS_ON_DEVICE void set_queries(Index b, Index t0, Index h) {
    b_ = b;
    t0_ = t0;
    h_ = h;
    kh_ = h / call_.group;
    block_.sync();
    block_.each(C, [&](int i) { bounds(i); });
    block_.sync();
  }
  /// The keys that a query may see for its document and start.
  LS_ON_DEVICE void bounds(int i) {
    const Index t = t0_ + i;
    m_.first[i] = 0;
    m_.end[i] = 0;
    if (t < call_.queries) {
      call_.find_bounds(b_, t, m_.first[i], m_.end[i]);
    }
  }
  LS_ON_DEVICE bool visible(int i, Index j) const {
    const Index at = call_.position(t0_ + i);
    const bool not_later = !call_.causal || j <= at;
    const bool near = call_.window == 0 || at - j < call_.window;
    return m_.first[i] <= j && j < m_.end[i] && (j < call_.prefix || (not_later && near));
  }
  /// Some pair of the queries and keys j0 .. may be visible: of documents, causality and window.
  LS_ON_DEVICE bool any_visible(Index j0) const {
    Index first = call_.keys(), end = 0;
    for (int i = 0; i < C; ++i) {
      if (m_.end[i] > m_.first[i]) {
        first = m_.first[i] < first ? m_.first[i] : first;
        end = m_.end[i] > end ? m_.end[i] : end;
      }
    }
    if (j0 >= end || j0 + kTile <= first) {
      return false;
    }
    const bool later = call_.causal && j0 > call_.position(t0_ + C - 1);
    const bool far = call_.window > 0 && call_.position(t0_) - (j0 + kTile - 1) >= call_.window;
    return j0 < call_.prefix || !(later || far);
  }
  /// Channels c0 .. of the queries' rows of x [..,D], or of outputs' gradients.
  LS_ON_DEVICE void load_queries(const Rows<const T>& rows, Index c0, Index d) {
    cuda::fill(block_, m_.x, [&](int i, int c) {
      const bool there = rows && t0_ + i < call_.queries && c0 + c < d;
      return there ? convert<A>(rows.at(b_, t0_ + i, h_)[c0 + c]) : A(0);
    });
  }
  LS_ON_DEVICE void load_keys(const Rows<const T>& cache, const Rows<const T>& rows, Index j0,
                              Index c0, Index d) {
    cuda::fill(block_, m_.y, [&](int j, int c) {
      const bool there = j0 + j < call_.keys() && c0 + c < d;
      return there ? convert<A>(call_.at(cache, rows, b_, j0 + j, kh_)[c0 + c]) : A(0);
    });
  }
  /// to(i, j) = sum over channels of queries' and keys' rows; a sync must follow.
  LS_ON_DEVICE void dots(const Rows<const T>& x, const Rows<const T>& cache,
                         const Rows<const T>& rows, Index d, Index j0, Tile<A, C, kTile>& to) {
    block_.sync();
    cuda::fill(block_, to, [](int, int) { return A(0); });
    for (Index c0 = 0; c0 < d; c0 += kTile) {
      block_.sync();
      load_queries(x, c0, d);
      load_keys(cache, rows, j0, c0, d);
      block_.sync();
      cuda::product<A, C, kTile, kTile>(
          block_, [&](int i, int c) { return m_.x(i, c); },
          [&](int c, int j) { return m_.y(j, c); }, [&](int i, int j, A sum) { to(i, j) += sum; });
    }
    block_.sync();
  }
  /// s = logits, -infinity where a key is hidden; slope: their derivative by q k.
  LS_ON_DEVICE void logits(Index j0) {
    dots(call_.q, call_.k0, call_.k, call_.dk, j0, m_.s);
    block_.each(C * kTile, [&](int e) {
      const int i = e / kTile, n = e % kTile;
      const Index j = j0 + n;
      if (!visible(i, j)) {
        m_.s(i, n) = -std::numeric_limits<A>::infinity();
        m_.slope(i, n) = 0;
        return;
      }
      A x = call_.scale * m_.s(i, n), slope = 1;
      if (call_.softcap > 0) {
        const A u = std::tanh(x / call_.softcap);
        slope = 1 - u * u;
        x = call_.softcap * u;
      }
      if (call_.slopes) {
        x -= call_.slopes[h_] * static_cast<A>(call_.position(t0_ + i) - j);
      }
      if (call_.bias) {
        x += call_.bias[(h_ * call_.queries + t0_ + i) * call_.keys() + j];
      }
      m_.s(i, n) = x;
      m_.slope(i, n) = slope * call_.scale;
    });
    block_.sync();
  }
  /// Backward: s = probabilities, gs = gradients of logits; logits are made before.
  LS_ON_DEVICE void gradients(Index j0) {
    logits(j0);
    dots(call_.go, call_.v0, call_.v, call_.dv, j0, m_.gs);
    block_.each(C * kTile, [&](int e) {
      const int i = e / kTile, n = e % kTile;
      const bool seen = visible(i, j0 + n);
      const A p = seen ? std::exp(m_.s(i, n) - m_.lse[i]) : A(0);
      m_.s(i, n) = p;
      m_.gs(i, n) = seen ? p * (m_.gs(i, n) - m_.delta[i]) : A(0);
    });
    block_.sync();
  }
  /// lse, and delta without the gradient of lse.
  LS_ON_DEVICE void load_statistics() {
    block_.each(C, [&](int i) {
      const bool there = t0_ + i < call_.queries;
      const Index at = there ? call_.row(b_, t0_ + i, h_) : 0;
      m_.lse[i] = there ? call_.lse_in[at] : A(0);
      m_.delta[i] = there ? call_.delta[at] - (call_.glse ? call_.glse[at] : A(0)) : A(0);
    });
    block_.sync();
  }
  /// Sums behind the shared memory, tile n of `rows` rows.
  LS_ON_DEVICE A& sums(Index n, int rows, int i, int c) {
    return state_[(n * rows + i) * (kTile + 1) + c];
  }
  LS_ON_DEVICE void clear_sums(Index tiles, int rows) {
    const auto all = static_cast<int>(tiles * rows * (kTile + 1));
    block_.each(all, [&](int e) { state_[e] = 0; });
  }

  const Block& block_;
  const Call<T>& call_;
  Shared& m_;
  A* const state_;
  Index b_ = 0, t0_ = 0, h_ = 0, kh_ = 0;
};

}  // namespace ls::ops::attention
