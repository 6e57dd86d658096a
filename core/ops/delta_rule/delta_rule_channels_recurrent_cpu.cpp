// delta_rule token by token where decays, or what is erased and written, are by key channel. With
// decays d [Dk], what is read r = S_{t-1}^T E and written w:
//   beta:  E = d k,  w = beta (v - r),  S_t = d S_{t-1} + k w^T
//   a, b:  E = a,    w = v,             S_t = d S_{t-1} + k w^T + b r^T
// A task is one sequence and key head with its R = group value heads. A step takes two passes over
// the rows of the state: what E reads, then the update and what the query reads. Backward: states
// [R,Dk,Dv] are kept for one stretch at a time; ds_all [R,Dk,Dv] is their gradient; gq, gk, ga, gb
// [Dk] are sums over the value heads of a token; dr, dw [Dv] the gradients of r and w.
#include "core/ops/common/stretches.h"
#include "core/ops/delta_rule/delta_rule_kernels.h"

namespace ls::ops::delta_rule {
namespace {

/// One token and value head, converted.
template <class T>
class Step {
 protected:
  using A = acc_t<T>;
  explicit Step(const Call<T>& call) : call_(call) {
    ws_.add(dk_, q_, k_, a_, b_, decay_, erase_);
    ws_.add(dv_, v_, y_, r_, w_);
    ws_.add(1, nq_, nk_);
  }
  void load(Index b, Index t, Index h) {
    call_.load_keys(call_.q, b, t, h, 1, q_, nq_);
    call_.load_keys(call_.k, b, t, h, 1, k_, nk_);
    if (low_rank_) {
      call_.a.load(b, t, h, 1, dk_, a_);
      call_.b.load(b, t, h, 1, dk_, b_);
    }
  }
  /// Decays and E of a value head; v, and what E reads of S and is written.
  void prepare(Index b, Index t, Index hv, const A* s) {
    call_.load_channels(b, t, hv, decay_);
    for (Index i = 0; i < dk_; ++i) {
      decay_[i] = simd::exp(decay_[i]);
      erase_[i] = low_rank_ ? a_[i] : decay_[i] * k_[i];
    }
    call_.v.load(b, t, hv, 1, dv_, v_);
    A* __restrict r = r_;
    std::fill(r, r + dv_, A(0));
    for (Index i = 0; s && i < dk_; ++i) {
      const A e = erase_[i];
      const A* __restrict row = s + i * dv_;
      for (Index c = 0; c < dv_; ++c) {
        r[c] += e * row[c];
      }
    }
    if (low_rank_) {
      std::copy(v_, v_ + dv_, w_);
      return;
    }
    for (Index c = 0; c < dv_; ++c) {
      v_[c] -= r[c];
    }
    call_.times_beta(b, t, hv, v_, w_);
  }
  /// The state after the token (`from` null is zero and may be `to`), y = to^T q.
  void advance(const A* from, A* to) {
    A* __restrict y = y_;
    const A* __restrict w = w_, * __restrict r = r_;
    std::fill(y, y + dv_, A(0));
    for (Index i = 0; i < dk_; ++i) {
      const A d = decay_[i], k = k_[i], b = low_rank_ ? b_[i] : A(0), q = q_[i];
      const A* const before = from ? from + i * dv_ : nullptr;
      A* const row = to + i * dv_;
#pragma omp simd
      for (Index c = 0; c < dv_; ++c) {
        const A next = (before ? d * before[c] : A(0)) + k * w[c] + b * r[c];
        row[c] = next;
        y[c] += q * next;
      }
    }
  }

  const Call<T>& call_;
  const bool low_rank_ = call_.a.defined();
  const Index dk_ = call_.dk, dv_ = call_.dv, size_ = call_.size, group_ = call_.group;
  common::Workspace<A> ws_;
  A *q_, *k_, *a_, *b_, *decay_, *erase_, *v_, *y_, *r_, *w_, *nq_, *nk_;
};

template <class T>
class ForwardPass : Step<T> {
  using A = acc_t<T>;
  using S = Step<T>;
  using S::call_, S::dk_, S::dv_, S::size_, S::group_, S::q_, S::y_;

 public:
  ForwardPass(const Call<T>& call, const common::Result<T>& o, const common::LastStates<A>& states)
      : S(call), o_(o), states_(states) {
    S::ws_.add(call.spare(), spare_);
    S::ws_.allocate();
  }
  void run(Index task) {
    const common::Sequence& seq = call_.seqs[task / call_.heads];
    const Index b = seq.row, h = task % call_.heads, first_head = task * group_;
    A* const states = states_.at(first_head, spare_);
    for (Index i = 0; i < seq.length; ++i) {
      const Index t = seq.begin + i;
      S::load(b, t, h);
      for (Index x = 0; x < dk_; ++x) {
        q_[x] *= call_.scale;
      }
      for (Index r = 0; r < group_; ++r) {
        A* const s = states + r * size_;
        const A* const from = i > 0 ? s : call_.s0.at(first_head + r);
        S::prepare(b, t, h * group_ + r, from);
        S::advance(from, s);
        o_.store(b, t, h * group_ + r, 1, dv_, y_);
      }
    }
    if (seq.length == 0) {
      call_.s0.copy(first_head, group_, states);
    }
  }

 private:
  const common::Result<T>& o_;
  const common::LastStates<A>& states_;
  A* spare_;
};

template <class T>
class BackwardPass : Step<T> {
  using A = acc_t<T>;
  using S = Step<T>;
  using S::call_, S::low_rank_, S::dk_, S::dv_, S::size_, S::group_, S::ws_;
  using S::q_, S::k_, S::a_, S::b_, S::decay_, S::v_, S::y_, S::r_, S::w_, S::nq_, S::nk_;

 public:
  BackwardPass(const Call<T>& call, const common::Operand<T>& go,
               const common::LastGradients<A>& dsT, const Gradients<T>& grad)
      : S(call), go_(go), dsT_(dsT), grad_(grad), kept_(ws_, call.longest, group_ * size_) {
    ws_.add(group_ * size_, ds_all_);
    ws_.add(dk_, gq_, gk_, ga_, gb_, dlog_);
    ws_.add(dv_, dr_, dw_);
    ws_.allocate();
  }
  void run(Index task) {
    const common::Sequence& seq = call_.seqs[task / call_.heads];
    const Index b = seq.row, h = task % call_.heads, first_head = task * group_;
    call_.s0.copy(first_head, group_, kept_.start());
    dsT_.copy(first_head, group_, ds_all_);
    kept_.backwards(
        seq.length,
        [&](Index i, const A* from, A* to) {
          S::load(b, seq.begin + i, h);
          for (Index r = 0; r < group_; ++r) {
            S::prepare(b, seq.begin + i, h * group_ + r, from + r * size_);
            S::advance(from + r * size_, to + r * size_);
          }
        },
        [&](Index i, const A* before) { gradients(b, seq.begin + i, h, before); });
    if (A* const to = grad_.s0.at(first_head)) {
      std::copy(ds_all_, ds_all_ + group_ * size_, to);
    }
  }

 private:
  void gradients(Index b, Index t, Index h, const A* before) {
    S::load(b, t, h);
    for (A* const sum : {gq_, gk_, ga_, gb_}) {
      std::fill(sum, sum + dk_, A(0));
    }
    for (Index r = 0; r < group_; ++r) {
      value_head(b, t, h * group_ + r, before + r * size_, ds_all_ + r * size_);
    }
    if (grad_.q.defined()) {
      call_.through_norm(1, q_, nq_, gq_);
      grad_.q.store(b, t, h, 1, dk_, gq_);
    }
    if (grad_.k.defined()) {
      call_.through_norm(1, k_, nk_, gk_);
      grad_.k.store(b, t, h, 1, dk_, gk_);
    }
    grad_.a.store(b, t, h, 1, dk_, ga_);
    grad_.b.store(b, t, h, 1, dk_, gb_);
  }
  void value_head(Index b, Index t, Index hv, const A* s, A* ds) {
    S::prepare(b, t, hv, s);
    if (go_.defined()) {
      go_.load(b, t, hv, 1, dv_, y_);
      for (Index c = 0; c < dv_; ++c) {
        y_[c] *= call_.scale;
      }
    } else {
      std::fill(y_, y_ + dv_, A(0));
    }
    read(ds);
    if (!low_rank_) {  // w = beta (v - r), and v_ holds v - r
      grad_.store_beta(b, t, hv, dv_, dw_, v_);
      call_.times_beta(b, t, hv, dw_, v_);
      for (Index c = 0; c < dv_; ++c) {
        dr_[c] = -v_[c];
      }
    }
    grad_.v.store(b, t, hv, 1, dv_, low_rank_ ? dw_ : v_);
    change(s, ds);
    grad_.gk.store(b, t, hv, 1, dk_, dlog_);
    if (grad_.g.defined()) {
      A sum = 0;
      for (Index i = 0; i < dk_; ++i) {
        sum += dlog_[i];
      }
      *grad_.g.at(b, t, hv) = sum;
    }
  }
  /// The query's share of ds; the gradients of what k and b write.
  void read(A* ds) {
    A* __restrict dw = dw_, * __restrict dr = dr_;
    const A* __restrict y = y_;
    std::fill(dw, dw + dv_, A(0));
    std::fill(dr, dr + dv_, A(0));
    for (Index i = 0; i < dk_; ++i) {
      A* __restrict row = ds + i * dv_;
      const A q = q_[i], k = k_[i], b = low_rank_ ? b_[i] : A(0);
      for (Index c = 0; c < dv_; ++c) {
        row[c] += q * y[c];
        dw[c] += k * row[c];
        dr[c] += b * row[c];
      }
    }
  }
  /// Gradients of the token's vectors and decays; ds becomes that of the state before.
  void change(const A* s, A* ds) {
    const A* __restrict y = y_, * __restrict w = w_, * __restrict r = r_, * __restrict dr = dr_;
    const A wy = common::dot(dv_, w, y), ry = common::dot(dv_, r, y);
    for (Index i = 0; i < dk_; ++i) {
      const A* __restrict row = s + i * dv_;
      A* __restrict drow = ds + i * dv_;
      A read_y = 0, read_dr = 0, of_w = 0, of_r = 0, kept = 0;
#pragma omp simd reduction(+ : read_y, read_dr, of_w, of_r, kept)
      for (Index c = 0; c < dv_; ++c) {
        read_y += row[c] * y[c];
        read_dr += row[c] * dr[c];
        of_w += drow[c] * w[c];
        of_r += drow[c] * r[c];
        kept += row[c] * drow[c];
      }
      const A d = decay_[i];
      gq_[i] += d * read_y + k_[i] * wy + (low_rank_ ? b_[i] * ry : A(0));
      gk_[i] += of_w + (low_rank_ ? A(0) : d * read_dr);
      ga_[i] += read_dr;
      gb_[i] += of_r;
      dlog_[i] = d * (kept + (low_rank_ ? A(0) : k_[i] * read_dr));
      const A e = S::erase_[i];
      for (Index c = 0; c < dv_; ++c) {
        drow[c] = d * drow[c] + e * dr[c];
      }
    }
  }

  const common::Operand<T>& go_;
  const common::LastGradients<A>& dsT_;
  const Gradients<T>& grad_;
  common::Stretches<A> kept_;
  A *ds_all_, *gq_, *gk_, *ga_, *gb_, *dlog_, *dr_, *dw_;
};

/// Every thread with a pass of its own over some tasks.
template <class Pass, class Call, class... Args>
void run_tasks(const Call& call, Index flops_per_token, const Args&... args) {
  common::for_tasks(call.seqs, call.heads, flops_per_token, [&](Index first, Index last) {
    Pass pass(call, args...);
    for (Index task = first; task < last; ++task) {
      pass.run(task);
    }
  });
}

}  // namespace

template <class T>
void ChannelsRecurrent<T>::forward(const Call<T>& call, DeltaRule::Out<TensorView>& out) {
  const common::Result<T> o(out.o);
  const common::LastStates<acc_t<T>> states(out.sT, call.heads * call.group, call.size, call.seqs);
  run_tasks<ForwardPass<T>>(call, call.group * 8 * call.size, o, states);
}

template <class T>
void ChannelsRecurrent<T>::backward(const Call<T>& call, const DeltaRule::Out<TensorView>& dout,
                                    DeltaRule::In<TensorView>& din) {
  const common::Operand<T> go(dout.o);
  const Gradients<T> grad(din, call);
  const common::LastGradients<acc_t<T>> dsT(dout.sT, call.heads * call.group, call.size, call.seqs);
  run_tasks<BackwardPass<T>>(call, 3 * call.group * 8 * call.size, go, dsT, grad);
  grad.s0.finish();
}

template struct ChannelsRecurrent<double>;
template struct ChannelsRecurrent<float>;
template struct ChannelsRecurrent<bf16>;

}  // namespace ls::ops::delta_rule
