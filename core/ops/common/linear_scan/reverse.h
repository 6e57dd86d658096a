#pragma once
// The loop backward (states.h).
#include "core/ops/common/linear_scan/states.h"

namespace ls::ops::linear_scan {

/// Gradients of states, of what is written and of values. The state here is the gradient of one.
template <class T, class Y>
class Reverse : public StatesLoop<T, Y> {
  using Base = StatesLoop<T, Y>;
  using Base::block_, Base::call_, Base::m_, Base::seq_, Base::h_;

 public:
  using A = acc_t<T>;
  using Shared = StatesShared<T, Y>;
  static constexpr int C = Call<T, Y>::C;

  LS_ON_DEVICE static void run(const Block& block, const Call<T, Y>& call, Shared* shared,
                               A* state) {
    Reverse(block, call, *shared, state).all();
  }

 private:
  LS_ON_DEVICE Reverse(const Block& block, const Call<T, Y>& call, Shared& m, A* state)
      : Base(block, call, m, state) {}

  LS_ON_DEVICE void all() {
    Slot last;
    last.end = seq_.end;
    this->each_of_state([&](Index i, int c) {
      const bool there = i < call_.dk && this->inside(c);
      this->state(i, c) = there ? call_.gradient_after(last, h_, i, this->column(c)) : A(0);
    });
    for (Index n = slots_of(seq_, C) - 1; n >= 0; --n) {
      chunk(slot_of(call_, seq_, n));
    }
    block_.sync();
    store_first();
  }

  LS_ON_DEVICE void store_first() {
    if (!call_.ds0 || seq_.start < 0) {
      return;
    }
    this->each_of_state([&](Index i, int c) {
      if (i >= call_.dk || !this->inside(c)) {
        return;
      }
      const bool shared = call_.gs_first && seq_.start == call_.batch;
      A* const to =
          shared ? call_.gs_first + ((block_.x * call_.heads + h_) * call_.dk + i) * call_.dv +
                       this->column(c)
                 : call_.ds0.at((seq_.start * call_.heads + h_) * call_.dk + i, this->column(c));
      if (to) {
        *to = this->state(i, c);
      }
    });
  }

  LS_ON_DEVICE void chunk(const Slot& s) {
    this->begin(s);
    if (s.after >= 0) {
      this->each_of_state([&](Index i, int c) {
        if (i < call_.dk && this->inside(c)) {
          call_
              .gstates[((s.after * call_.heads + h_) * call_.dk + i) * call_.dv + this->column(c)] =
              this->state(i, c);
        }
      });
    }
    written(s);
    if (call_.erase == Erase::kKey) {
      through_key(s);
    } else if (call_.low_rank()) {
      through_low_rank(s);
    } else {
      block_.each(C * kTile, [&](int e) {
        const int t = e / kTile, c = e % kTile;
        store(s, t, c, m_.x(t, c), A(0), m_.weight[t] * m_.x(t, c));
      });
    }
    before(s);
  }

  /// x = gradient of what k writes, y of what b writes.
  LS_ON_DEVICE void written(const Slot& s) {
    this->clear(m_.x);
    this->clear(m_.y);
    for (Index i0 = 0; i0 < call_.dk; i0 += kTile) {
      block_.sync();
      this->load_states(call_.k_out, s, i0, m_.rows);
      block_.sync();
      this->add_read(i0, m_.x);
      if (call_.low_rank()) {
        block_.sync();
        this->load_states(call_.b_out, s, i0, m_.rows);
        block_.sync();
        this->add_read(i0, m_.y);
      }
    }
    block_.sync();
    if (call_.gv) {
      block_.each(C * kTile, [&](int e) {
        const int t = e / kTile, c = e % kTile;
        m_.x(t, c) *= t < s.length ? this->columns_between(s.length - 1, t, c) : A(0);
      });
    }
    for (Index j = 0; call_.go && j < call_.group; ++j) {
      block_.sync();
      load_output_gradient(s, j);
      this->load_query_matrix(call_.p, s, j);
      block_.sync();
      if (call_.gv) {
        block_.each(C * kTile, [&](int e) { with_column_decays(s, e / kTile, e % kTile); });
      } else {
        this->template add_product<true>(A(1), m_.r, m_.x);
      }
      if (call_.low_rank()) {
        block_.sync();
        this->load_query_matrix(call_.pb, s, j);
        block_.sync();
        this->template add_product<true>(A(1), m_.r, m_.y);
      }
    }
    block_.sync();
  }
  LS_ON_DEVICE void load_output_gradient(const Slot& s, Index j) {
    cuda::fill(block_, m_.r, [&](int t, int c) {
      const Index head = h_ * call_.group + j;
      return t < s.length && this->inside(c)
                 ? convert<A>(call_.go.at(s.row, s.token + t, head)[this->column(c)])
                 : A(0);
    });
  }
  LS_ON_DEVICE void with_column_decays(const Slot& s, int u, int c) {
    A sum = 0;
    for (int t = u; t < s.length; ++t) {
      const int level = this->query_level(t);
      const A decay = u <= level ? this->columns_between(level, u, c) : A(1);
      sum += m_.m(t, u) * decay * m_.r(t, c);
    }
    m_.x(u, c) += sum;
  }

  /// r = z: the transposed system, of x times the weights.
  LS_ON_DEVICE void through_key(const Slot& s) {
    block_.each(C * kTile, [&](int e) {
      const int t = e / kTile, c = e % kTile;
      m_.y(t, c) = m_.weight[t] * m_.x(t, c);
      m_.r(t, c) = 0;
    });
    solve(s);
    this->load_matrix(call_.mk, s);
    block_.sync();
    this->template add_product<true>(A(-1), m_.r, m_.x);
    block_.sync();
    block_.each(C * kTile, [&](int e) {
      const int t = e / kTile, c = e % kTile;
      store(s, t, c, m_.x(t, c), m_.r(t, c), m_.r(t, c));
    });
  }
  /// r = y by the transposed inverse, twice: with what it leaves of y.
  LS_ON_DEVICE void solve(const Slot& s) {
    this->load_matrix(call_.solve, s);
    block_.sync();
    this->template add_product<true>(A(1), m_.y, m_.r);
    block_.sync();
    cuda::fill(block_, m_.rows, [](int, int) { return A(0); });
    this->load_matrix(call_.low_rank() ? call_.mb : call_.mk, s);
    block_.sync();
    this->template add_product<true>(A(1), m_.r, m_.rows);
    block_.sync();
    block_.each(C * kTile, [&](int e) {
      const int t = e / kTile, c = e % kTile;
      const A sum = call_.low_rank() ? -m_.rows(t, c) : m_.weight[t] * m_.rows(t, c);
      m_.y(t, c) -= m_.r(t, c) + sum;
    });
    this->load_matrix(call_.solve, s);
    block_.sync();
    this->template add_product<true>(A(1), m_.y, m_.r);
    block_.sync();
  }
  LS_ON_DEVICE void through_low_rank(const Slot& s) {
    this->clear(m_.r);
    solve(s);
    this->load_matrix(call_.mk, s);
    block_.sync();
    this->template add_product<true>(A(1), m_.r, m_.x);
    block_.sync();
    block_.each(C * kTile, [&](int e) {
      const int t = e / kTile, c = e % kTile;
      store(s, t, c, m_.x(t, c), m_.r(t, c), m_.x(t, c));
    });
  }
  LS_ON_DEVICE void store(const Slot& s, int t, int c, A gx, A z, A gv) {
    if (t >= s.length || !this->inside(c)) {
      return;
    }
    const Index at = call_.of_state(s, t, h_) * call_.dv + this->column(c);
    if (call_.gx) {
      call_.gx[at] = gx;
    }
    if (call_.z) {
      call_.z[at] = z;
    }
    if (call_.dv_ && this->column(c) < call_.value_dv) {
      call_.dv_.at(s.row, s.token + t, h_)[this->column(c)] = convert<T>(gv);
    }
  }

  /// The gradient of the state before the chunk.
  LS_ON_DEVICE void before(const Slot& s) {
    block_.sync();
    this->decay(s);
    if (call_.erases()) {
      for (Index i0 = 0; i0 < call_.dk; i0 += kTile) {
        block_.sync();
        this->load_states(call_.e_in, s, i0, m_.rows);
        block_.sync();
        this->add_write(i0, call_.low_rank() ? A(1) : A(-1), m_.r);
      }
    }
    for (Index j = 0; call_.go && j < call_.group; ++j) {
      block_.sync();
      load_output_gradient(s, j);
      if (call_.gv) {
        block_.sync();
        block_.each(C * kTile, [&](int e) {
          const int t = e / kTile, c = e % kTile;
          m_.r(t, c) *= this->columns_in(this->query_level(t), c);
        });
      }
      for (Index i0 = 0; i0 < call_.dk; i0 += kTile) {
        block_.sync();
        this->load_queries(s, j, i0, m_.rows);
        block_.sync();
        this->add_write(i0, A(1), m_.r);
      }
    }
  }
};

}  // namespace ls::ops::linear_scan
