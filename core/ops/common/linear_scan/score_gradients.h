#pragma once
// Chunk by chunk, from whole rows of values: gradients of what reads meet of writes inside the
// chunk, and of weights. A block is a slot, a state head and one of its queries.
#include "core/ops/common/linear_scan/decays.h"

namespace ls::ops::linear_scan {

template <class T, class Y>
struct ScoreGradients {
  using A = acc_t<T>;
  static constexpr int C = Call<T, Y>::C;
  struct Shared {
    Tile<A, C, kTile> go, x, y, z, gx;
    Decays<A> columns;
    Tile<A, C, C> gp, gpb, gmk, gmb;
    A weight[C], gweight[C];
  };

  LS_ON_DEVICE static void run(const Block& block, const Call<T, Y>& call, Shared* shared) {
    const Slot s = call.slots[block.x];
    if (s.length > 0) {
      ScoreGradients(block, call, *shared, s).all();
    }
  }

 private:
  LS_ON_DEVICE ScoreGradients(const Block& block, const Call<T, Y>& call, Shared& m, const Slot& s)
      : block_(block),
        call_(call),
        m_(m),
        s_(s),
        h_(block.y),
        j_(block.z),
        states_(j_ == 0 && call.erases()),
        weights_(j_ == 0 && (call.dbeta || call.dweight)) {}

  LS_ON_DEVICE void all() {
    block_.each(C * C, [&](int e) {
      m_.gp(e / C, e % C) = m_.gpb(e / C, e % C) = 0;
      m_.gmk(e / C, e % C) = m_.gmb(e / C, e % C) = 0;
    });
    block_.each(C, [&](int t) {
      m_.gweight[t] = 0;
      m_.weight[t] = t < s_.length ? call_.weight_of(s_, t, h_) : A(0);
    });
    for (Index c0 = 0; c0 < call_.dv; c0 += kTile) {
      block_.sync();
      load(c0);
      block_.sync();
      if (call_.gv) {
        m_.columns.sum(block_);
        block_.sync();
      }
      add();
    }
    block_.sync();
    store();
  }

  /// Columns c0 .. of a chunk's rows at `base`, of states.
  LS_ON_DEVICE A row_of(const A* base, int t, Index c) const {
    return base[call_.of_state(s_, t, h_) * call_.dv + c];
  }
  LS_ON_DEVICE void load(Index c0) {
    cuda::each<C * kTile>(block_, [&](int e) {
      const int t = e / kTile, i = e % kTile;
      const Index c = c0 + i;
      const bool there = t < s_.length && c < call_.dv;
      const bool key = call_.erase == Erase::kKey;
      A go = 0, x = 0, y = 0, z = 0, gx = 0;
      if (there) {
        go = call_.go ? convert<A>(call_.go.at(s_.row, s_.token + t, h_ * call_.group + j_)[c])
                      : A(0);
        y = call_.erases() ? row_of(call_.y, t, c) : call_.value_of(s_, t, h_, c);
        x = key || !call_.erases() ? m_.weight[t] * y : call_.value_of(s_, t, h_, c);
        z = states_ ? row_of(call_.z, t, c) : A(0);
        gx = weights_ ? row_of(call_.gx, t, c) : A(0);
      }
      m_.go(t, i) = go;
      m_.x(t, i) = x;
      m_.y(t, i) = y;
      m_.z(t, i) = z;
      m_.gx(t, i) = gx;
    });
    if (call_.gv) {
      load_column_decays(block_, call_, s_, h_, c0, m_.columns);
    }
  }

  template <class Rows>
  LS_ON_DEVICE void add_pairs(A sign, const Rows& reads, const Rows& writes, Tile<A, C, C>& to) {
    cuda::product<A, C, C, kTile>(
        block_, [&](int t, int c) { return reads(t, c); },
        [&](int c, int s) { return writes(s, c); },
        [&](int t, int s, A sum) { to(t, s) += sign * sum; });
  }
  LS_ON_DEVICE void add() {
    if (call_.gv) {
      block_.each(C * C, [&](int e) { with_column_decays(e / C, e % C); });
    } else {
      add_pairs(A(1), m_.go, m_.x, m_.gp);
    }
    if (call_.low_rank()) {
      add_pairs(A(1), m_.go, m_.y, m_.gpb);
    }
    if (states_) {
      add_pairs(call_.low_rank() ? A(1) : A(-1), m_.z, m_.x, m_.gmk);
      if (call_.low_rank()) {
        add_pairs(A(1), m_.z, m_.y, m_.gmb);
      }
    }
    if (weights_) {
      block_.each(s_.length, [&](int t) {
        A sum = 0;
        for (int c = 0; c < kTile; ++c) {
          sum += m_.gx(t, c) * m_.y(t, c);
        }
        m_.gweight[t] += sum;
      });
    }
  }
  LS_ON_DEVICE void with_column_decays(int t, int s) {
    const int level = call_.exclusive ? t - 1 : t;
    if (s > t || t >= s_.length) {
      return;
    }
    A sum = 0;
    for (int c = 0; c < kTile; ++c) {
      const A decay = s <= level ? m_.columns.between(level, s, c) : A(1);
      sum += m_.go(t, c) * decay * m_.x(s, c);
    }
    m_.gp(t, s) += sum;
  }

  LS_ON_DEVICE void store() {
    block_.each(s_.length * C, [&](int e) {
      const int t = e / C, s = e % C;
      const Index query = call_.of_query(s_, t, h_, j_) * C + s;
      const Index at = call_.of_state(s_, t, h_) * C + s;
      call_.gp[query] = s <= t ? m_.gp(t, s) : A(0);
      if (call_.low_rank()) {
        call_.gpb[query] = s <= t ? m_.gpb(t, s) : A(0);
      }
      if (states_) {
        call_.gmk[at] = s < t ? m_.gmk(t, s) : A(0);
        if (call_.low_rank()) {
          call_.gmb[at] = s < t ? m_.gmb(t, s) : A(0);
        }
      }
    });
    if (weights_) {
      block_.each(s_.length, [&](int t) {
        if (call_.dbeta) {
          *call_.dbeta.at(s_.row, s_.token + t, h_) = convert<T>(m_.gweight[t]);
        } else {
          *call_.dweight.at(s_.row, s_.token + t, h_) = m_.gweight[t];
        }
      });
    }
  }

  const Block& block_;
  const Call<T, Y>& call_;
  Shared& m_;
  const Slot& s_;
  const Index h_, j_;
  const bool states_, weights_;  ///< this block makes what does not depend on queries
};

}  // namespace ls::ops::linear_scan
