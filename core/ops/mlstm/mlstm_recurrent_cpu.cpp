// Token by token, for decoding, and for anyone who wants no chunks. A task is one sequence and
// head. Forward: one pass over the state a token, which decays, takes the write and is read by the
// query. Backward: states are kept for one stretch at a time; dc [Dk,Dv], dn [Dk] are their
// gradients, dm that of m where the true states stay (NOTES.md). A state in memory is c, n and m,
// one behind the other.
#include "core/ops/common/stretches.h"
#include "core/ops/mlstm/mlstm_kernels.h"

namespace ls::ops::mlstm {
namespace {

/// One token, converted.
template <class T>
class Step {
 protected:
  using A = acc_t<T>;
  explicit Step(const Call<T>& call) : call_(call) {
    ws_.add(dk_, q_, k_);
    ws_.add(dv_, v_, y_);
  }
  void load(Index b, Index t, Index h) {
    call_.q.load(b, t, h, 1, dk_, q_);
    call_.k.load(b, t, h, 1, dk_, k_);
    call_.v.load(b, t, h, 1, dv_, v_);
    for (Index x = 0; x < dk_; ++x) {
      q_[x] *= call_.scale;
    }
  }
  /// Factors of the state before a token and of what it writes.
  void gates(Index b, Index t, Index h, A m) {
    const A f = *call_.f.at(b, t, h), i = *call_.i.at(b, t, h);
    m_ = call_.next(m, i, f);
    kept_ = simd::exp(f + (m - m_));  // m may be so large that f + m has lost f
    written_ = simd::exp(i - m_);
    from_input_ = i > f + m;
  }
  /// The state after the token (which may be in the place of the one before), y = scale q c, d.
  void advance(const State<A>& from, const State<A>& to) {
    A* __restrict y = y_;
    std::fill(y, y + dv_, A(0));
    sum_ = 0;
    for (Index x = 0; x < dk_; ++x) {
      const A w = written_ * k_[x], q = q_[x], kept = kept_;
      const A* before = from.c + x * dv_;
      A* row = to.c + x * dv_;
#pragma omp simd
      for (Index e = 0; e < dv_; ++e) {
        const A next = kept * before[e] + w * v_[e];
        row[e] = next;
        y[e] += q * next;
      }
      to.n[x] = kept * from.n[x] + w;
      sum_ += q * to.n[x];
    }
    *to.m = m_;
  }
  A floor() const {
    return simd::exp(-m_);
  }
  A below() const {
    return call_.normalize ? std::max(std::abs(sum_), floor()) + call_.eps : A(1);
  }

  const Call<T>& call_;
  const Index dk_ = call_.dk, dv_ = call_.dv, size_ = call_.size;
  common::Workspace<A> ws_;
  A *q_, *k_, *v_, *y_;
  A m_ = 0, kept_ = 0, written_ = 0, sum_ = 0;
  bool from_input_ = false;
};

template <class T>
class ForwardPass : Step<T> {
  using A = acc_t<T>;
  using S = Step<T>;
  using S::call_, S::dk_, S::dv_, S::size_, S::y_;

 public:
  ForwardPass(const Call<T>& call, const common::Result<T>& o, const LastStates<T>& states)
      : S(call), o_(o), states_(states) {
    S::ws_.add(states.spare, spare_);
    S::ws_.allocate();
  }
  void run(Index task) {
    const common::Sequence& seq = call_.seqs[task / call_.heads];
    const Index b = seq.row, h = task % call_.heads;
    const State<A> s = states_.at(task, spare_, size_, dk_);
    s.load(call_.c0, call_.n0, call_.m0, task);
    for (Index t = seq.begin; t < seq.begin + seq.length; ++t) {
      S::load(b, t, h);
      S::gates(b, t, h, *s.m);
      S::advance(s, s);
      const A f = A(1) / S::below();
      for (Index e = 0; e < dv_; ++e) {
        y_[e] *= f;
      }
      o_.store(b, t, h, 1, dv_, y_);
    }
  }

 private:
  const common::Result<T>& o_;
  const LastStates<T>& states_;
  A* spare_;
};

template <class T>
class BackwardPass : Step<T> {
  using A = acc_t<T>;
  using S = Step<T>;
  using S::call_, S::dk_, S::dv_, S::size_, S::ws_, S::q_, S::k_, S::v_, S::y_;
  using S::kept_, S::written_, S::sum_;

 public:
  BackwardPass(const Call<T>& call, const common::Operand<T>& go, const LastGradients<T>& dsT,
               const Gradients<T>& grad)
      : S(call), go_(go), dsT_(dsT), grad_(grad), kept_states_(ws_, call.longest, size_ + dk_ + 1) {
    ws_.add(size_ + dk_ + 1, now_, d_);
    ws_.add(dk_, gq_, gk_);
    ws_.add(dv_, go_row_, gv_);
    ws_.allocate();
  }
  void run(Index task) {
    const common::Sequence& seq = call_.seqs[task / call_.heads];
    const Index b = seq.row, h = task % call_.heads;
    const State<A> start = state(kept_states_.start()), d = state(d_);
    start.load(call_.c0, call_.n0, call_.m0, task);
    d.load(dsT_.c, dsT_.n, dsT_.m, task);
    bool last = true;
    kept_states_.backwards(
        seq.length, [&](Index i, const A* from, A* to) { step(b, seq.begin + i, h, from, to); },
        [&](Index i, const A* before) {
          step(b, seq.begin + i, h, before, now_);
          if (last && call_.stabilize) {
            *d.m -= within(state(now_));
          }
          last = false;
          gradients(b, seq.begin + i, h, state(const_cast<A*>(before)));
        });
    if (call_.stabilize && !last) {
      *d.m += within(state(kept_states_.start()));
    }
    grad_.store_states(d, size_, dk_, task);
  }

 private:
  State<A> state(A* at) const { return {at, at + size_, at + size_ + dk_}; }
  void step(Index b, Index t, Index h, const A* from, A* to) {
    const State<A> before = state(const_cast<A*>(from));
    S::load(b, t, h);
    S::gates(b, t, h, *before.m);
    S::advance(before, state(to));
  }
  /// <c, dc> + <n, dn>.
  A within(const State<A>& s) const { return common::dot(size_ + dk_, s.c, d_); }
  /// Gradients of a token from d, that of the state after it (now_), which becomes that of
  /// `before`.
  void gradients(Index b, Index t, Index h, const State<A>& before) {
    const State<A> now = state(now_), d = state(d_);
    const A dsum = through_output(b, t, h);
    A dkept = 0, dwritten = 0;
    std::fill(gv_, gv_ + dv_, A(0));
    for (Index x = 0; x < dk_; ++x) {
      const A* __restrict c = now.c + x * dv_, * __restrict old = before.c + x * dv_;
      const A* __restrict y = go_row_, * __restrict v = v_;
      A* __restrict row = d.c + x * dv_, * __restrict gv = gv_;
      const A q = q_[x], k = k_[x];
      A of_q = 0, of_k = 0, of_kept = 0;
#pragma omp simd reduction(+ : of_q, of_k, of_kept)
      for (Index e = 0; e < dv_; ++e) {
        row[e] += q * y[e];
        of_q += c[e] * y[e];
        of_k += row[e] * v[e];
        of_kept += row[e] * old[e];
        gv[e] += k * row[e];
        row[e] *= kept_;
      }
      d.n[x] += q * dsum;
      gq_[x] = call_.scale * (of_q + now.n[x] * dsum);
      gk_[x] = written_ * (of_k + d.n[x]);
      dwritten += k * (of_k + d.n[x]);
      dkept += of_kept + d.n[x] * before.n[x];
      d.n[x] *= kept_;
    }
    for (Index e = 0; e < dv_; ++e) {
      gv_[e] *= written_;
    }
    grad_.q.store(b, t, h, 1, dk_, gq_);
    grad_.k.store(b, t, h, 1, dk_, gk_);
    grad_.v.store(b, t, h, 1, dv_, gv_);
    A di = written_ * dwritten, df = kept_ * dkept;
    if (call_.stabilize) {
      (S::from_input_ ? di : df) += *d.m;
      *d.m = S::from_input_ ? A(0) : *d.m;
    }
    grad_.i.store(b, t, h, 1, 1, &di);
    grad_.f.store(b, t, h, 1, 1, &df);
  }
  /// go_row = gradient of scale q c; returns that of d and adds to that of m what eps gives.
  A through_output(Index b, Index t, Index h) {
    if (!go_.defined()) {
      std::fill(go_row_, go_row_ + dv_, A(0));
      return 0;
    }
    go_.load(b, t, h, 1, dv_, go_row_);
    const A f = A(1) / S::below(), go_o = f * common::dot(dv_, go_row_, y_);
    for (Index e = 0; e < dv_; ++e) {
      go_row_[e] *= f;
    }
    if (!call_.normalize) {
      return 0;
    }
    if (call_.stabilize) {
      *state(d_).m -= go_o * call_.eps * f;
    }
    const A dsum = (sum_ > 0 ? -go_o : go_o) * f;
    return std::abs(sum_) > S::floor() ? dsum : A(0);
  }

  const common::Operand<T>& go_;
  const LastGradients<T>& dsT_;
  const Gradients<T>& grad_;
  common::Stretches<A> kept_states_;
  A *now_, *d_, *gq_, *gk_, *go_row_, *gv_;
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
void Recurrent<T>::forward(const Call<T>& call, Mlstm::Out<TensorView>& out) {
  const common::Result<T> o(out.o);
  const LastStates<T> states(out, call);
  run_tasks<ForwardPass<T>>(call, 4 * call.size, o, states);
}

template <class T>
void Recurrent<T>::backward(const Call<T>& call, const Mlstm::Out<TensorView>& dout,
                            Mlstm::In<TensorView>& din) {
  const common::Operand<T> go(dout.o);
  const LastGradients<T> dsT(dout, call);
  const Gradients<T> grad(din, call);
  run_tasks<BackwardPass<T>>(call, 14 * call.size, go, dsT, grad);
  grad.finish();
}

template struct Recurrent<double>;
template struct Recurrent<float>;
template struct Recurrent<bf16>;

}  // namespace ls::ops::mlstm
