#pragma once
// Gradients of column decays, and sums over what lies in several blocks, in the order of heads and
// slots.
#include "core/ops/common/linear_scan/decays.h"

namespace ls::ops::linear_scan {

/// Gradients of column decays: as those of rows in key_gradients.h, with outputs for queries and
/// values for keys. A block is a slot, a state head and kTile columns.
template <class T, class Y>
class ColumnDecays {
 public:
  using A = acc_t<T>;
  static constexpr int C = Call<T, Y>::C;
  struct Shared {
    Decays<A> decays;
    Tile<A, C, kTile> go, v, gg;
    A weight[C];
  };
  LS_ON_DEVICE static void run(const Block& block, const Call<T, Y>& call, Shared* shared) {
    const Slot s = call.slots[block.x];
    if (s.length > 0) {
      ColumnDecays(block, call, *shared, s).all();
    }
  }

 private:
  LS_ON_DEVICE ColumnDecays(const Block& block, const Call<T, Y>& call, Shared& m, const Slot& s)
      : block_(block), call_(call), m_(m), s_(s), h_(block.y), c0_(block.z * kTile) {}

  LS_ON_DEVICE void all() {
    load_column_decays(block_, call_, s_, h_, c0_, m_.decays);
    cuda::fill(block_, m_.v, [&](int t, int c) {
      const bool there = t < s_.length && c0_ + c < call_.dv;
      return there ? call_.weight_of(s_, t, h_) * call_.value_of(s_, t, h_, c0_ + c) : A(0);
    });
    block_.sync();
    m_.decays.sum(block_);
    block_.sync();
    block_.each(kTile, [&](int c) {
      if (c0_ + c < call_.dv) {
        column(c);
      }
    });
  }
  /// What key channels i carry from or to state column c, summed over them.
  template <class F>
  LS_ON_DEVICE A over_keys(F&& f) const {
    A sum = 0;
    for (Index i = 0; i < call_.dk; ++i) {
      sum += f(i);
    }
    return sum;
  }
  LS_ON_DEVICE A go(int t, Index j, int c) const {
    return call_.go ? convert<A>(call_.go.at(s_.row, s_.token + t, h_ * call_.group + j)[c0_ + c])
                    : A(0);
  }
  LS_ON_DEVICE void column(int c) {
    const int n = s_.length, shift = call_.exclusive ? 1 : 0;
    const Index column = c0_ + c, first = call_.of_state(s_, 0, h_) * call_.dk;
    A carried = over_keys([&](Index i) {
      return call_.all[first + i] * call_.state_before(s_, h_, i, column) *
             call_.gradient_after(s_, h_, i, column);
    });
    carried *= m_.decays.in(n - 1, c);
    A past[C];
    for (int s = 0; s < n; ++s) {
      const A* const k = call_.k_out + call_.of_state(s_, s, h_) * call_.dk;
      past[s] = m_.decays.between(n - 1, s, c) * m_.v(s, c) *
                over_keys([&](Index i) { return k[i] * call_.gradient_after(s_, h_, i, column); });
    }
    for (int t = n - 1; t >= 0; --t) {
      const int tq = t + shift;
      for (Index j = 0; tq < n && j < call_.group; ++j) {
        const Index query = call_.of_query(s_, tq, h_, j);
        const A read = go(tq, j, c);
        carried +=
            read * m_.decays.in(t, c) * over_keys([&](Index i) {
              return call_.q_in[query * call_.dk + i] * call_.state_before(s_, h_, i, column);
            });
        for (int s = 0; s < t; ++s) {
          past[s] += call_.p[query * C + s] * read * m_.decays.between(t, s, c) * m_.v(s, c);
        }
      }
      A sum = carried;
      for (int s = 0; s < t; ++s) {
        sum += past[s];
      }
      call_.dgv.at(s_.row, s_.token + t, h_)[column] = sum;
    }
  }

  const Block& block_;
  const Call<T, Y>& call_;
  Shared& m_;
  const Slot& s_;
  const Index h_, c0_;
};

/// Rows of queries or keys: the sum over the heads that share one, through the norm where there is
/// one. A block is kRows tokens and heads.
template <class T, class Y>
struct SumRows {
  using A = acc_t<T>;
  static constexpr int kRows = 16;
  struct Shared {
    A factor[kRows], along[kRows];
  };
  Rows<const T> x;  ///< what was read
  const A* from;    ///< [B,T,heads*share,Dk]
  Rows<T> to;
  Index heads, share;
  bool normalized;

  LS_ON_DEVICE A sum(const Call<T, Y>& call, Index row, Index i) const {
    A s = 0;
    for (Index n = 0; n < share; ++n) {
      s += from[(row * share + n) * call.dk + i];
    }
    return s;
  }
  LS_ON_DEVICE void run(const Block& block, const Call<T, Y>& call, Shared* m) const {
    const Index first = block.x * kRows, all = call.batch * call.tokens * heads;
    const int rows = static_cast<int>(all - first < kRows ? all - first : kRows);
    const auto place = [&](Index row, auto& of) {
      const Index token = row / heads;
      return of.at(token / call.tokens, token % call.tokens, row % heads);
    };
    block.each(rows, [&](int r) {
      m->factor[r] = 1;
      m->along[r] = 0;
      if (normalized) {
        const T* const from_row = place(first + r, x);
        A square = call.eps, along = 0;
        for (Index i = 0; i < call.dk; ++i) {
          const A e = convert<A>(from_row[i]);
          square += e * e;
          along += e * sum(call, first + r, i);
        }
        m->factor[r] = 1 / std::sqrt(square);
        m->along[r] = along * m->factor[r] * m->factor[r];
      }
    });
    block.sync();
    block.each(rows * static_cast<int>(call.dk), [&](int e) {
      const Index r = e / call.dk, i = e % call.dk;
      A d = sum(call, first + r, i);
      if (normalized) {
        d = m->factor[r] * (d - convert<A>(place(first + r, x)[i]) * m->along[r]);
      }
      place(first + r, to)[i] = convert<T>(d);
    });
  }
};

/// Gradients of decays by head, summed over tiles of key channels.
template <class T, class Y>
struct SumTiles {
  using A = acc_t<T>;
  struct Shared {};
  LS_ON_DEVICE static void run(const Block& block, const Call<T, Y>& call, Shared*) {
    const Index all = call.batch * call.tokens * call.heads, tiles = call.key_tiles();
    const Index first = block.x * kThreads;
    block.each(static_cast<int>(all - first < kThreads ? all - first : kThreads), [&](int e) {
      const Index at = first + e, token = at / call.heads;
      A sum = 0;
      for (Index n = 0; n < tiles; ++n) {
        sum += call.gg_tile[at * tiles + n];
      }
      *call.dg.at(token / call.tokens, token % call.tokens, at % call.heads) = sum;
    });
  }
};

/// The gradient of the bonus [HU,Dk], over all slots and the heads that share one.
template <class T, class Y>
struct SumBonus {
  using A = acc_t<T>;
  struct Shared {};
  LS_ON_DEVICE static void run(const Block& block, const Call<T, Y>& call, Shared*) {
    const Index h0 = block.x * call.bonus_share, first = block.y * kThreads;
    const Index rest = call.dk - first;
    block.each(static_cast<int>(rest < kThreads ? rest : kThreads), [&](int e) {
      A sum = 0;
      for (Index s = 0; s < call.slot_count; ++s) {
        if (call.slots[s].length > 0) {
          for (Index n = 0; n < call.bonus_share; ++n) {
            sum += call.gu_slot[(s * call.heads + h0 + n) * call.dk + first + e];
          }
        }
      }
      call.du[block.x * call.dk + first + e] = sum;
    });
  }
};

/// Gradients of incoming states from which no sequence starts are zero; of the one from which
/// several do, their sum. A block is an entry and a head.
template <class T, class Y>
struct SumStarts {
  using A = acc_t<T>;
  struct Shared {};
  LS_ON_DEVICE static void run(const Block& block, const Call<T, Y>& call, Shared*) {
    const Index entry = block.x, h = block.y;
    Index starts = 0;
    for (Index n = 0; n < call.sequences.count; ++n) {
      starts += call.sequences.at[n].start == entry ? 1 : 0;
    }
    const bool shared = call.gs_first && entry == call.batch;
    if (starts > 0 && !shared) {
      return;
    }
    const auto size = static_cast<int>(call.dk * call.dv);
    block.each(size, [&](int e) {
      A sum = 0;
      for (Index n = 0; shared && n < call.sequences.count; ++n) {
        if (call.sequences.at[n].start == entry) {
          sum += call.gs_first[(n * call.heads + h) * size + e];
        }
      }
      A* const to = call.ds0.at((entry * call.heads + h) * call.dk + e / call.dv, e % call.dv);
      if (to) {
        *to = sum;
      }
    });
  }
};

}  // namespace ls::ops::linear_scan
