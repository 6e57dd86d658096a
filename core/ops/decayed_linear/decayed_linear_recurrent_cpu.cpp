// Token by token: S_t = diag(rows) S_{t-1} diag(columns) + k_t v_t^T, rows = exp(g + gk), columns =
// exp(gv), o_t = scale q_t S_t, or with a bonus scale (q_t S_{t-1} + (q_t . (u * k_t)) v_t); for
// decoding, and for anyone who wants no chunks. A task is one sequence and state head; q, k, rows
// and their gradients [Dk] and v, y, columns and theirs [Dv] hold one token. Forward: one pass over
// the state a token, in tiles of columns, and one for each further query. Backward: the states
// of common/stretches.h; ds [Dk,Dv] is the gradient of the state.
#include <numeric>

#include "core/ops/common/state_columns.h"
#include "core/ops/common/stretches.h"
#include "core/ops/decayed_linear/decayed_linear_kernels.h"

namespace ls::ops::decayed_linear {
namespace {

/// One token of a state: decays, key, value, query.
template <class A>
struct Token {
  A *rows, *columns;  ///< columns null: 1
  A *q, *k, *v, *y;
};

/// to = diag(rows) from diag(columns) + k v^T, y = to^T q. `from` null is zero and may be `to`.
template <class A>
void step(Index dk, Index dv, const Token<A>& x, const A* from, A* to) {
  common::for_columns<A>(dv, [&]<int NV>(Index c, Index cols) {
    common::Columns<A, NV> value(cols), sum(cols);
    value.read(x.v + c);
    sum.clear();
    if (from && x.columns) {
      for (Index i = 0; i < dk; ++i) {
        sum.update(x.rows[i], x.columns + c, from + i * dv + c, x.k[i], value, x.q[i],
                   to + i * dv + c);
      }
    } else if (from) {
      for (Index i = 0; i < dk; ++i) {
        sum.update(x.rows[i], from + i * dv + c, x.k[i], value, x.q[i], to + i * dv + c);
      }
    } else {
      for (Index i = 0; i < dk; ++i) {
        sum.begin(x.k[i], value, x.q[i], to + i * dv + c);
      }
    }
    sum.write(x.y + c);
  });
}

/// y = s^T q; s null is zero.
template <class A>
void read(Index dk, Index dv, const A* s, const A* q, A* y) {
  if (!s) {
    std::fill(y, y + dv, A(0));
    return;
  }
  common::for_columns<A>(dv, [&]<int NV>(Index c, Index cols) {
    common::Columns<A, NV> sum(cols);
    sum.clear();
    for (Index i = 0; i < dk; ++i) {
      sum.add(q[i], s + i * dv + c);
    }
    sum.write(y + c);
  });
}

/// sum_x q_x u_x k_x.
template <class A>
A bonus_of(Index dk, const A* __restrict q, const A* __restrict u, const A* __restrict k) {
  A sum = 0;
  for (Index x = 0; x < dk; ++x) {
    sum += q[x] * u[x] * k[x];
  }
  return sum;
}

/// A thread's operands.
template <class T>
class Walk {
 protected:
  using A = acc_t<T>;
  explicit Walk(const Call<T>& call) : call_(call) {
    ws_.add(dk_, x_.q, x_.k, x_.rows);
    ws_.add(dv_, x_.v, x_.y, columns_);
  }
  /// Key, value and decays of a token.
  void load(Index b, Index t, Index h) {
    call_.load_keys(b, t, h, 1, x_.k);
    call_.v.load(b, t, h, 1, dv_, x_.v);
    const A of_head = call_.log_decay(b, t, h);
    head_decay_ = simd::exp(of_head);
    if (call_.gk.defined()) {
      const A* __restrict g = call_.gk.at(b, t, h);
      for (Index i = 0; i < dk_; ++i) {
        x_.rows[i] = simd::exp(of_head + g[i]);
      }
    } else {
      std::fill(x_.rows, x_.rows + dk_, head_decay_);
    }
    x_.columns = call_.gv.defined() ? columns_ : nullptr;
    if (x_.columns) {
      const A* __restrict g = call_.gv.at(b, t, h);
      for (Index c = 0; c < dv_; ++c) {
        columns_[c] = simd::exp(g[c]);
      }
    }
  }
  const Call<T>& call_;
  const Index dk_ = call_.dk, dv_ = call_.dv, size_ = call_.size, group_ = call_.group;
  common::Workspace<A> ws_;
  Token<A> x_{};
  A head_decay_ = 1;

 private:
  A* columns_;
};

template <class T>
class ForwardWalk : Walk<T> {
  using A = acc_t<T>;
  using Walk<T>::call_, Walk<T>::dk_, Walk<T>::dv_, Walk<T>::group_, Walk<T>::x_;

 public:
  ForwardWalk(const Call<T>& call, Index, const common::Result<T>& o,
              const common::LastStates<A>& states)
      : Walk<T>(call), o_(o), states_(states) {
    this->ws_.add(call.spare(), spare_);
    this->ws_.allocate();
  }
  void run(Index task) {
    const Index h = task % call_.heads;
    const common::Sequence& seq = call_.seqs[task / call_.heads];
    A* const s = states_.at(task, spare_);
    for (Index i = 0; i < seq.length; ++i) {
      const A* const from = i > 0 ? s : call_.s0.at(task);
      this->load(seq.row, seq.begin + i, h);
      if (call_.exclusive()) {
        read_then_write(seq.row, seq.begin + i, h, from, s);
      } else {
        write_then_read(seq.row, seq.begin + i, h, from, s);
      }
    }
    if (seq.length == 0) {
      call_.s0.copy(task, 1, s);
    }
  }

 private:
  void load_query(Index b, Index t, Index h, Index j) {
    call_.load_queries(b, t, h, j, 1, x_.q);
    for (Index i = 0; i < dk_; ++i) {
      x_.q[i] *= call_.scale;
    }
  }
  void write_then_read(Index b, Index t, Index h, const A* from, A* s) {
    for (Index j = 0; j < group_; ++j) {
      load_query(b, t, h, j);
      if (j == 0) {
        step(dk_, dv_, x_, from, s);
      } else {
        read(dk_, dv_, s, x_.q, x_.y);
      }
      o_.store(b, t, call_.map.out_of(h, j), 1, dv_, x_.y);
    }
  }
  void read_then_write(Index b, Index t, Index h, const A* from, A* s) {
    for (Index j = 0; j < group_; ++j) {
      load_query(b, t, h, j);
      read(dk_, dv_, from, x_.q, x_.y);
      const A own = bonus_of(dk_, x_.q, call_.bonus_of(h), x_.k);
      for (Index c = 0; c < dv_; ++c) {
        x_.y[c] += own * x_.v[c];
      }
      o_.store(b, t, call_.map.out_of(h, j), 1, dv_, x_.y);
    }
    step(dk_, dv_, x_, from, s);
  }

  const common::Result<T>& o_;
  const common::LastStates<A>& states_;
  A* spare_;
};

template <class T>
class BackwardWalk : Walk<T> {
  using A = acc_t<T>;
  using Walk<T>::call_, Walk<T>::dk_, Walk<T>::dv_, Walk<T>::size_, Walk<T>::group_, Walk<T>::x_;
  using Walk<T>::head_decay_;

 public:
  BackwardWalk(const Call<T>& call, Index, const common::Operand<T>& go,
               const common::LastGradients<A>& dsT, const Gradients<T>& grad)
      : Walk<T>(call),
        kept_(this->ws_, call.longest, size_, true),
        go_(go),
        dsT_(dsT),
        grad_(grad) {
    this->ws_.add(size_, ds_);
    this->ws_.add(dk_, gq_, gk_, grows_);
    this->ws_.add(dv_, gv_, gcolumns_);
    this->ws_.allocate();
  }
  void run(Index task) {
    const Index h = task % call_.heads;
    const common::Sequence& seq = call_.seqs[task / call_.heads];
    std::fill(x_.q, x_.q + dk_, A(0));
    call_.s0.copy(task, 1, kept_.start());
    dsT_.copy(task, 1, ds_);
    kept_.backwards(
        seq.length,
        [&](Index i, const A* from, A* to) {
          this->load(seq.row, seq.begin + i, h);
          step(dk_, dv_, x_, from, to);
        },
        [&](Index i, const A* before) { gradients(seq.row, seq.begin + i, h, task, before); });
    if (A* const to = grad_.s0.at(task)) {
      std::copy(ds_, ds_ + size_, to);
    }
  }

 private:
  /// Of one token, from the state before it; ds_ becomes the gradient of that.
  void gradients(Index b, Index t, Index h, Index task, const A* before) {
    this->load(b, t, h);
    std::fill(gv_, gv_ + dv_, A(0));
    if (call_.exclusive()) {
      through_write(b, t, h, before);
      through_reads(b, t, h, before, grad_.bonus(task));
    } else {
      through_reads(b, t, h, before + size_, nullptr);
      through_write(b, t, h, before);
    }
    grad_.store_k(b, t, h, 1, call_, gk_);
    grad_.v.store(b, t, h, 1, dv_, gv_);
  }
  /// What the queries read of s, and of the token itself where there is a bonus.
  void through_reads(Index b, Index t, Index h, const A* s, A* gu) {
    for (Index j = 0; j < group_; ++j) {
      if (go_.defined()) {
        call_.load_queries(b, t, h, j, 1, x_.q);
        go_.load(b, t, call_.map.out_of(h, j), 1, dv_, x_.y);
        for (Index x = 0; x < dk_; ++x) {
          gq_[x] = call_.scale * common::dot(dv_, s + x * dv_, x_.y);
          const A f = call_.scale * x_.q[x];
          A* __restrict row = ds_ + x * dv_;
          for (Index c = 0; c < dv_; ++c) {
            row[c] += f * x_.y[c];
          }
        }
        if (call_.exclusive()) {
          through_bonus(call_.bonus_of(h), gu);
        }
      } else {
        std::fill(gq_, gq_ + dk_, A(0));
      }
      grad_.store_q(b, t, h, j, 1, call_, gq_);
    }
  }
  void through_bonus(const A* u, A* gu) {
    const A own = call_.scale * bonus_of(dk_, x_.q, u, x_.k),
            f = call_.scale * common::dot(dv_, x_.y, x_.v);
    for (Index c = 0; c < dv_; ++c) {
      gv_[c] += own * x_.y[c];
    }
    for (Index x = 0; x < dk_; ++x) {
      gq_[x] += f * u[x] * x_.k[x];
      gk_[x] += f * u[x] * x_.q[x];
      if (gu) {
        gu[x] += f * x_.q[x] * x_.k[x];
      }
    }
  }
  /// Key, value and decays, from and to ds_.
  void through_write(Index b, Index t, Index h, const A* before) {
    A through = 0;
    for (Index x = 0; x < dk_; ++x) {
      A* __restrict row = ds_ + x * dv_;
      const A kx = x_.k[x], decay = x_.rows[x];
      gk_[x] = common::dot(dv_, row, x_.v);
      if (!x_.columns) {
        const A sum = common::dot(dv_, row, before + x * dv_);
        through += sum;
        grows_[x] = decay * sum;
      }
      for (Index c = 0; c < dv_; ++c) {
        gv_[c] += kx * row[c];
        row[c] *= decay;
      }
    }
    if (x_.columns) {
      through_columns(before);
      through = std::accumulate(grows_, grows_ + dk_, A(0));
      grad_.gv.store(b, t, h, 1, dv_, gcolumns_);
    } else if (call_.gk.defined()) {
      through = std::accumulate(grows_, grows_ + dk_, A(0));
    } else {
      through *= head_decay_;
    }
    grad_.gk.store(b, t, h, 1, dk_, grows_);
    if (grad_.g.defined()) {
      *grad_.g.at(b, t, h) = through;
    }
  }
  /// The decay of columns, after that of rows.
  void through_columns(const A* before) {
    std::fill(gcolumns_, gcolumns_ + dv_, A(0));
    for (Index x = 0; x < dk_; ++x) {
      A* __restrict row = ds_ + x * dv_;
      A sum = 0;
      for (Index c = 0; c < dv_; ++c) {
        row[c] *= x_.columns[c];
        const A both = row[c] * before[x * dv_ + c];
        gcolumns_[c] += both;
        sum += both;
      }
      grows_[x] = sum;
    }
  }

  const common::Stretches<A> kept_;
  const common::Operand<T>& go_;
  const common::LastGradients<A>& dsT_;
  const Gradients<T>& grad_;
  A *ds_, *gq_, *gk_, *grows_, *gv_, *gcolumns_;
};

}  // namespace

template <class T>
void Recurrent<T>::forward(const Call<T>& call, DecayedLinear::Out<TensorView>& out) {
  const common::Result<T> o(out.o);
  const common::LastStates<acc_t<T>> states(out.sT, call.heads, call.size, call.seqs);
  common::run_passes<ForwardWalk<T>>(call, 2 * (call.group + 1) * call.size, 1, o, states);
}

template <class T>
void Recurrent<T>::backward(const Call<T>& call, const DecayedLinear::Out<TensorView>& dout,
                            DecayedLinear::In<TensorView>& din) {
  const common::Operand<T> go(dout.o);
  const common::LastGradients<acc_t<T>> dsT(dout.sT, call.heads, call.size, call.seqs);
  Gradients<T> grad(din, call);
  run_backward<BackwardWalk<T>>(call, 6 * (call.group + 1) * call.size, 1, go, dsT, grad);
  grad.finish();
}

template struct Recurrent<double>;
template struct Recurrent<float>;
template struct Recurrent<bf16>;

}  // namespace ls::ops::decayed_linear
