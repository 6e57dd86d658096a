#pragma once
// The loop forward (states.h).
#include "core/ops/common/linear_scan/states.h"

namespace ls::ops::linear_scan {

/// Outputs and outgoing states; the states before chunks and y where these are wanted.
template <class T, class Y>
class Forward : public StatesLoop<T, Y> {
  using Base = StatesLoop<T, Y>;
  using Base::block_, Base::call_, Base::m_, Base::seq_, Base::h_;

 public:
  using A = acc_t<T>;
  using Shared = StatesShared<T, Y>;
  static constexpr int C = Call<T, Y>::C;

  LS_ON_DEVICE static void run(const Block& block, const Call<T, Y>& call, Shared* shared,
                               A* state) {
    Forward(block, call, *shared, state).all();
  }

 private:
  LS_ON_DEVICE Forward(const Block& block, const Call<T, Y>& call, Shared& m, A* state)
      : Base(block, call, m, state) {}

  LS_ON_DEVICE void all() {
    const Index count = slots_of(seq_, C);
    Slot first;
    first.start = seq_.start;
    this->each_of_state([&](Index i, int c) {
      const bool there = i < call_.dk && this->inside(c);
      this->state(i, c) = there ? call_.state_before(first, h_, i, this->column(c)) : A(0);
    });
    for (Index n = 0; n < count; ++n) {
      chunk(slot_of(call_, seq_, n));
    }
    block_.sync();
    if (call_.sT && seq_.end >= 0) {
      this->each_of_state([&](Index i, int c) {
        if (i < call_.dk && this->inside(c)) {
          *call_.sT.at((seq_.end * call_.heads + h_) * call_.dk + i, this->column(c)) =
              this->state(i, c);
        }
      });
    }
  }

  LS_ON_DEVICE void chunk(const Slot& s) {
    this->begin(s);
    if (call_.states && s.before >= 0) {
      this->each_of_state([&](Index i, int c) {
        if (i < call_.dk && this->inside(c)) {
          call_
              .states[((s.before * call_.heads + h_) * call_.dk + i) * call_.dv + this->column(c)] =
              this->state(i, c);
        }
      });
    }
    this->load_values(s, m_.x);
    if (call_.erases()) {
      erase(s);
    }
    // What k writes: x, by the weights.
    block_.sync();
    block_.each(C * kTile, [&](int e) {
      const int t = e / kTile, c = e % kTile;
      const A from = call_.erase == Erase::kKey ? m_.y(t, c) : m_.x(t, c);
      m_.x(t, c) = call_.low_rank() ? from : from * m_.weight[t];
    });
    for (Index j = 0; call_.o && j < call_.group; ++j) {
      output(s, j);
    }
    update(s);
  }

  /// y = what is written beside weights, or what is read at a.
  LS_ON_DEVICE void erase(const Slot& s) {
    this->clear(m_.r);
    this->clear(m_.y);
    for (Index i0 = 0; i0 < call_.dk; i0 += kTile) {
      block_.sync();
      this->load_states(call_.e_in, s, i0, m_.rows);
      block_.sync();
      this->add_read(i0, m_.r);
    }
    block_.sync();
    if (call_.low_rank()) {
      this->load_matrix(call_.mk, s);
      block_.sync();
      this->template add_product<false>(A(1), m_.x, m_.r);
    } else {
      block_.each(C * kTile, [&](int e) {
        const int t = e / kTile, c = e % kTile;
        m_.r(t, c) = m_.x(t, c) - m_.r(t, c);
      });
    }
    block_.sync();
    this->load_matrix(call_.solve, s);
    block_.sync();
    this->template add_product<false>(A(1), m_.r, m_.y);
    refine(s);
    if (call_.y) {
      block_.each(s.length * kTile, [&](int e) {
        const int t = e / kTile, c = e % kTile;
        if (this->inside(c)) {
          call_.y[call_.of_state(s, t, h_) * call_.dv + this->column(c)] = m_.y(t, c);
        }
      });
    }
  }

  /// y once more through the inverse, with what it leaves of the right-hand side r.
  LS_ON_DEVICE void refine(const Slot& s) {
    block_.sync();
    block_.each(C * kTile, [&](int e) {
      const int t = e / kTile, c = e % kTile;
      m_.rows(t, c) = call_.low_rank() ? -m_.y(t, c) : m_.weight[t] * m_.y(t, c);
      m_.r(t, c) -= m_.y(t, c);
    });
    this->load_matrix(call_.low_rank() ? call_.mb : call_.mk, s);
    block_.sync();
    this->template add_product<false>(A(-1), m_.rows, m_.r);
    block_.sync();
    this->load_matrix(call_.solve, s);
    block_.sync();
    this->template add_product<false>(A(1), m_.r, m_.y);
    block_.sync();
  }

  LS_ON_DEVICE void output(const Slot& s, Index j) {
    block_.sync();
    this->clear(m_.r);
    for (Index i0 = 0; i0 < call_.dk; i0 += kTile) {
      block_.sync();
      this->load_queries(s, j, i0, m_.rows);
      block_.sync();
      this->add_read(i0, m_.r);
    }
    block_.sync();
    this->load_query_matrix(call_.p, s, j);
    block_.sync();
    if (call_.gv) {
      block_.each(C * kTile, [&](int e) { with_column_decays(s, e / kTile, e % kTile); });
    } else {
      this->template add_product<false>(A(1), m_.x, m_.r);
    }
    if (call_.low_rank()) {
      block_.sync();
      this->load_query_matrix(call_.pb, s, j);
      block_.sync();
      this->template add_product<false>(A(1), m_.y, m_.r);
    }
    block_.sync();
    block_.each(s.length * kTile, [&](int e) {
      const int t = e / kTile, c = e % kTile;
      if (this->inside(c)) {
        call_.o.at(s.row, s.token + t, h_ * call_.group + j)[this->column(c)] =
            convert<Y>(m_.r(t, c));
      }
    });
  }
  LS_ON_DEVICE void with_column_decays(const Slot& s, int t, int c) {
    if (t >= s.length) {
      return;
    }
    const int level = this->query_level(t);
    A sum = m_.r(t, c) * this->columns_in(level, c);
    for (int u = 0; u <= t; ++u) {
      const A decay = u <= level ? this->columns_between(level, u, c) : A(1);
      sum += m_.m(t, u) * decay * m_.x(u, c);
    }
    m_.r(t, c) = sum;
  }

  LS_ON_DEVICE void update(const Slot& s) {
    block_.sync();
    this->decay(s);
    if (call_.gv) {
      block_.each(C * kTile, [&](int e) {
        const int t = e / kTile, c = e % kTile;
        m_.x(t, c) *= t < s.length ? this->columns_between(s.length - 1, t, c) : A(0);
      });
    }
    for (Index i0 = 0; i0 < call_.dk; i0 += kTile) {
      block_.sync();
      this->load_states(call_.k_out, s, i0, m_.rows);
      block_.sync();
      this->add_write(i0, A(1), m_.x);
      if (call_.low_rank()) {
        block_.sync();
        this->load_states(call_.b_out, s, i0, m_.rows);
        block_.sync();
        this->add_write(i0, A(1), m_.y);
      }
    }
  }
};

}  // namespace ls::ops::linear_scan
