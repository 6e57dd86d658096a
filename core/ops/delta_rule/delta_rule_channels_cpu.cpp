// delta_rule in chunks where decays, or what is erased and written, are by key channel. Readers of
// the state are Q and E, writers K and, with a and b, B; D_ij is a vector, the decay of each
// channel from token j to i (common::PairDecays), and (R W^T)_D has the entries
// sum over channels of R_i D_ij W_j. What token i writes:
//   beta:   E = K reads the decayed state,        W_i = beta_i X_i along K:
//           X = V - in(E) S - tril_{-1}(E K^T)_D W
//   a, b:   E = -A reads the one before the decay, W_i = X_i along B, and V along K:
//           X = -in(E) S - tril_{-1}(E B^T)_D W - tril_{-1}(E K^T)_D V
// X by blocks as in delta_rule_cpu.cpp. With both writers one behind the other, as well as what
// they write (`written`):
//   O = scale (in(Q) S + tril(Q [K B]^T)_D written),   S' = all * S + out([K B])^T written
// Backward as there: a pass forward keeps what is written, X, M = tril_{-1}(E [K B]^T)_D and the
// states. One task is one sequence and key head with its R = group value heads, n = 1 or 2 writers.
// Buffers of a thread, for chunks of at most C tokens and sequences of at most T:
//   readers  [2,C,Dk] Q, E   writers [n,C,Dk] K, B   side the larger of both, weighed
//   scores   [2,C,n,C]       written [n,C,Dv]        x [C,Dv]       read [2,C,Dv]
// and backward:
//   states   [R,T/C+1,Dk,Dv]   written_all [R,T,n,Dv]   x_all [R,T,Dv]   m_all [R,T,n,C]
//   ds_all   [R,Dk,Dv]         y [2,C,Dv] scale dO, -dX   dwritten [n,C,Dv]
//   dreaders, dwriters         summed over value heads    products as side, gradients of it
//   dlog     [C,Dk]            gradients of the log-decays
// Derivation: NOTES.md.
#include "core/ops/common/pair_decays.h"
#include "core/ops/delta_rule/delta_rule_kernels.h"

namespace ls::ops::delta_rule {
namespace {

using common::Chunk;
using common::Reads;

template <class T>
Index flops_per_token(const Call<T>& call, Index chunk) {
  return call.group * (8 * call.size + 6 * chunk * (call.dk + call.dv));
}

/// What both passes do with a chunk: one thread's operands.
template <class T>
class Pass {
 protected:
  using A = acc_t<T>;
  Pass(const Call<T>& call, Index most) : call_(call), n_(call.a.defined() ? 2 : 1) {
    ws_.add(2 * most * dk_, readers_, side_);
    ws_.add(n_ * most * dk_, writers_);
    ws_.add(2 * n_ * most * most, scores_);
    ws_.add(2 * most * dv_, read_);
    ws_.add(most, nq_, nk_);
    d_.reserve(ws_, most, dk_, 2, n_);
  }
  /// Readers and writers of the key head.
  void load(const Chunk& z) {
    const Index rows = z.c * dk_;
    call_.load_keys(call_.q, z.b, z.t, z.h, z.c, readers_, nq_);
    call_.load_keys(call_.k, z.b, z.t, z.h, z.c, writers_, nk_);
    if (n_ == 1) {
      std::copy(writers_, writers_ + rows, readers_ + rows);
      return;
    }
    call_.b.load(z.b, z.t, z.h, z.c, dk_, writers_ + rows);
    call_.a.load(z.b, z.t, z.h, z.c, dk_, readers_ + rows);
    for (Index e = 0; e < rows; ++e) {
      readers_[rows + e] = -readers_[rows + e];
    }
  }
  void load_decays(const Chunk& z, Index hv) {
    d_.load(z.c, [&](Index i, A* to) { call_.load_channels(z.b, z.t + i, hv, to); });
  }
  /// side = readers from `first` on, times what the incoming state has decayed to.
  void weigh_readers(Index c, Index first) {
    for (Index x = first; x < 2; ++x) {
      for (Index i = 0; i < c; ++i) {
        const A* __restrict f = d_.in(i, reads_[x]);
        const A* __restrict from = readers_ + (x * c + i) * dk_;
        A* __restrict to = side_ + (x * c + i) * dk_;
        for (Index e = 0; e < dk_; ++e) {
          to[e] = f[e] * from[e];
        }
      }
    }
  }
  /// side = writers, times what is left of them at the end.
  void weigh_writers(Index c) {
    for (Index x = 0; x < n_; ++x) {
      for (Index i = 0; i < c; ++i) {
        const A* __restrict f = d_.out(i);
        const A* __restrict from = writers_ + (x * c + i) * dk_;
        A* __restrict to = side_ + (x * c + i) * dk_;
        for (Index e = 0; e < dk_; ++e) {
          to[e] = f[e] * from[e];
        }
      }
    }
  }
  /// x and what is written, from `read`, which E reads of S (null: nothing), and M.
  void erase(const Chunk& z, Index hv, const A* read, const A* m, A* x, A* written) {
    const Index c = z.c, ld = n_ * c;
    call_.v.load(z.b, z.t, hv, c, dv_, written);
    if (n_ == 1) {
      std::copy(written, written + c * dv_, x);
    } else {
      small_gemm<false, false, A>(c, dv_, c, A(-1), m, ld, written, dv_, A(0), x, dv_);
    }
    for (Index e = 0; read && e < c * dv_; ++e) {
      x[e] -= read[e];
    }
    solve(call_, z, hv, m + (n_ - 1) * c, ld, x, written + (n_ - 1) * c * dv_);
  }
  /// S' from S, in place.
  void advance(Index c, bool empty, const A* written, A* s) {
    weigh_writers(c);
    decay_state(empty, s);
    small_gemm<true, false, A>(dk_, dv_, n_ * c, A(1), side_, dk_, written, dv_, A(1), s, dv_);
  }
  void decay_state(bool empty, A* s) const {
    for (Index i = 0; i < dk_; ++i) {
      const A f = d_.all()[i];
      for (Index y = 0; y < dv_; ++y) {
        s[i * dv_ + y] = empty ? A(0) : f * s[i * dv_ + y];
      }
    }
  }

  const Call<T>& call_;
  const Index n_, dk_ = call_.dk, dv_ = call_.dv, size_ = call_.size, group_ = call_.group;
  const Reads reads_[2] = {Reads::kDecayed, n_ == 1 ? Reads::kDecayed : Reads::kBefore};
  common::Workspace<A> ws_;
  common::PairDecays<A> d_;
  A *readers_, *writers_, *side_, *scores_, *read_, *nq_, *nk_;
};

/// Adds to the scores of queries what they read of their own token, which has not decayed.
template <class A>
void add_diagonal(Index c, Index n, Index d, const A* q, const A* writers, A* scores) {
  for (Index x = 0; x < n; ++x) {
    for (Index i = 0; i < c; ++i) {
      scores[i * n * c + x * c + i] = common::dot(d, q + i * d, writers + (x * c + i) * d);
    }
  }
}

template <class T>
class ForwardPass : Pass<T> {
  using A = acc_t<T>;
  using P = Pass<T>;
  using P::call_, P::n_, P::dk_, P::dv_, P::size_, P::group_, P::reads_, P::ws_, P::d_;
  using P::readers_, P::writers_, P::side_, P::scores_, P::read_;

 public:
  ForwardPass(const Call<T>& call, Index most, const common::Result<T>& o,
              const common::LastStates<A>& states)
      : P(call, most), o_(o), states_(states) {
    ws_.add(most * dv_, x_);
    ws_.add(n_ * most * dv_, written_);
    ws_.add(call.spare(), spare_);
    ws_.allocate();
  }
  void run(Index task) {
    const common::Chunks chunks(call_.form, call_.seqs[task / call_.heads], task % call_.heads,
                                !call_.s0.at(task * call_.group), false);
    A* const states = states_.at(task * group_, spare_);
    call_.s0.copy(task * group_, group_, states);
    for (Index i = 0; i < chunks.count(); ++i) {
      P::load(chunks[i]);
      for (Index r = 0; r < group_; ++r) {
        value_head(chunks[i], chunks[i].h * group_ + r, states + r * size_);
      }
    }
  }

 private:
  /// Outputs, and the state s after the chunk.
  void value_head(const Chunk& z, Index hv, A* s) {
    const Index c = z.c;
    P::load_decays(z, hv);
    d_.scores(2, readers_, reads_, n_, writers_, scores_);
    add_diagonal(c, n_, dk_, readers_, writers_, scores_);
    if (!z.empty) {
      P::weigh_readers(c, 0);
      small_gemm<false, false, A>(2 * c, dv_, dk_, A(1), side_, dk_, s, dv_, A(0), read_, dv_);
    }
    P::erase(z, hv, z.empty ? nullptr : read_ + c * dv_, scores_ + n_ * c * c, x_, written_);
    small_gemm<false, false, A>(c, dv_, n_ * c, call_.scale, scores_, n_ * c, written_, dv_,
                                z.empty ? A(0) : call_.scale, read_, dv_);
    o_.store(z.b, z.t, hv, c, dv_, read_);
    P::advance(c, z.empty, written_, s);
  }

  const common::Result<T>& o_;
  const common::LastStates<A>& states_;
  A *x_, *written_, *spare_;
};

template <class T>
class BackwardPass : Pass<T> {
  using A = acc_t<T>;
  using P = Pass<T>;
  using P::call_, P::n_, P::dk_, P::dv_, P::size_, P::group_, P::reads_, P::ws_, P::d_;
  using P::readers_, P::writers_, P::side_, P::scores_, P::read_, P::nq_, P::nk_;

 public:
  BackwardPass(const Call<T>& call, Index most, const common::Operand<T>& go,
               const common::LastGradients<A>& dsT, const Gradients<T>& grad)
      : P(call, most),
        go_(go),
        dsT_(dsT),
        grad_(grad),
        gated_(grad.g.defined() || grad.gk.defined()),
        most_(most) {
    ws_.add(group_ * starts_ * size_, states_);
    ws_.add(group_ * n_ * starts_ * most * dv_, written_all_);
    ws_.add(group_ * starts_ * most * dv_, x_all_);
    ws_.add(group_ * n_ * starts_ * most * most, m_all_);
    ws_.add(group_ * size_, ds_all_);
    ws_.add(2 * most * dv_, y_);
    ws_.add(n_ * most * dv_, dwritten_);
    ws_.add(2 * most * dk_, dreaders_, products_);
    ws_.add(n_ * most * dk_, dwriters_);
    ws_.add(most * dk_, dlog_);
    ws_.allocate();
  }
  void run(Index task) {
    const common::Chunks chunks(call_.form, call_.seqs[task / call_.heads], task % call_.heads,
                                !call_.s0.at(task * group_),
                                !dsT_.at(task * group_) && go_.defined());
    for (Index r = 0; r < group_; ++r) {
      call_.s0.copy(task * group_ + r, 1, states_ + r * starts_ * size_);
    }
    dsT_.copy(task * group_, group_, ds_all_);
    for (Index i = 0; i < chunks.count(); ++i) {
      P::load(chunks[i]);
      for (Index r = 0; r < group_; ++r) {
        keep(chunks[i], head_of(chunks[i], i, r));
      }
    }
    for (Index i = chunks.count() - 1; i >= 0; --i) {
      gradients(chunks[i], i, i > 0 || grad_.s0.at(task * group_));
    }
    if (A* const to = grad_.s0.at(task * group_)) {
      std::copy(ds_all_, ds_all_ + group_ * size_, to);
    }
  }

 private:
  /// What is kept of a chunk and value head.
  struct Head {
    Index hv;
    A *before, *after;  ///< states; `before` is null where it is zero
    A *x, *written, *m, *ds;
  };
  Head head_of(const Chunk& z, Index chunk, Index r) const {
    const Index at = r * starts_ + chunk;
    A* const s = states_ + at * size_;
    return {.hv = z.h * group_ + r,
            .before = z.empty ? nullptr : s,
            .after = s + size_,
            .x = x_all_ + at * most_ * dv_,
            .written = written_all_ + at * n_ * most_ * dv_,
            .m = m_all_ + at * n_ * most_ * most_,
            .ds = ds_all_ + r * size_};
  }

  /// The pass forward: X, what is written, M and the state after the chunk.
  void keep(const Chunk& z, const Head& a) {
    const Index c = z.c;
    P::load_decays(z, a.hv);
    d_.scores(1, readers_ + c * dk_, reads_ + 1, n_, writers_, a.m);
    if (a.before) {
      P::weigh_readers(c, 1);
      small_gemm<false, false, A>(c, dv_, dk_, A(1), side_ + c * dk_, dk_, a.before, dv_, A(0),
                                  read_, dv_);
    }
    P::erase(z, a.hv, a.before ? read_ : nullptr, a.m, a.x, a.written);
    if (z.unread) {
      return;
    }
    if (a.before) {
      std::copy(a.before, a.before + size_, a.after);
    }
    P::advance(c, !a.before, a.written, a.after);
  }

  /// The pass backward: all gradients of a chunk, and ds_all before it where something
  /// `goes_on`.
  void gradients(const Chunk& z, Index chunk, bool goes_on) {
    const Index c = z.c;
    P::load(z);
    std::fill(dreaders_, dreaders_ + 2 * c * dk_, A(0));
    std::fill(dwriters_, dwriters_ + n_ * c * dk_, A(0));
    for (Index r = 0; r < group_; ++r) {
      const Head a = head_of(z, chunk, r);
      P::load_decays(z, a.hv);
      std::fill(dlog_, dlog_ + c * dk_, A(0));
      between_states(z, a);
      of_written(z, a);
      of_errors(z, a);
      of_scores(z, a);
      through_incoming(z, a, goes_on);
      store_decays(z, a.hv);
    }
    store_vectors(z);
  }
  /// The incoming state's share of the outgoing one.
  void between_states(const Chunk& z, const Head& a) {
    if (!gated_ || !a.before || z.unread) {
      return;
    }
    for (Index i = 0; i < dk_; ++i) {
      const A through = d_.all()[i] * common::dot(dv_, a.before + i * dv_, a.ds + i * dv_);
      for (Index e = 0; e < z.c; ++e) {
        dlog_[e * dk_ + i] += through;
      }
    }
  }
  /// dwritten, from the outgoing state and from the outputs; and what the state gives to writers.
  void of_written(const Chunk& z, const Head& a) {
    const Index c = z.c, nc = n_ * c;
    if (!z.unread) {
      P::weigh_writers(c);
      small_gemm<false, false, A>(nc, dv_, dk_, A(1), side_, dk_, a.ds, dv_, A(0), dwritten_, dv_);
      small_gemm<false, true, A>(nc, dk_, dv_, A(1), a.written, dv_, a.ds, dv_, A(0), products_,
                                 dk_);
      if (gated_) {
        d_.from_writers(0, c, n_, side_, products_, dlog_);
      }
      for (Index e = 0; e < nc; ++e) {
        const A* __restrict f = d_.out(e % c);
        for (Index x = 0; x < dk_; ++x) {
          dwriters_[e * dk_ + x] += f[x] * products_[e * dk_ + x];
        }
      }
    }
    if (!go_.defined()) {
      std::fill(y_, y_ + c * dv_, A(0));
      if (z.unread) {
        std::fill(dwritten_, dwritten_ + nc * dv_, A(0));
      }
      return;
    }
    go_.load(z.b, z.t, a.hv, c, dv_, y_);
    for (Index e = 0; e < c * dv_; ++e) {
      y_[e] *= call_.scale;
    }
    d_.scores(1, readers_, reads_, n_, writers_, scores_);
    add_diagonal(c, n_, dk_, readers_, writers_, scores_);
    small_gemm<true, false, A>(nc, dv_, c, A(1), scores_, nc, y_, dv_, z.unread ? A(0) : A(1),
                               dwritten_, dv_);
  }
  /// dX, and the gradients of v and beta.
  void of_errors(const Chunk& z, const Head& a) {
    const Index c = z.c, nc = n_ * c;
    A* const dw = dwritten_ + (n_ - 1) * c * dv_;
    A* const dx = y_ + c * dv_;
    solve_transposed(call_, z, a.hv, a.m + (n_ - 1) * c, nc, dw, dx);
    if (n_ == 2) {
      small_gemm<true, false, A>(c, dv_, c, A(-1), a.m, nc, dx, dv_, A(1), dwritten_, dv_);
    }
    grad_.v.store(z.b, z.t, a.hv, c, dv_, n_ == 1 ? dx : dwritten_);
    for (Index e = 0; e < c; ++e) {
      grad_.store_beta(z.b, z.t + e, a.hv, dv_, dw + e * dv_, a.x + e * dv_);
    }
    for (Index e = 0; e < c * dv_; ++e) {
      dx[e] = -dx[e];
    }
  }
  /// Into the scores, and from there into readers, writers and decays.
  void of_scores(const Chunk& z, const Head& a) {
    const Index c = z.c, nc = n_ * c;
    small_gemm<false, true, A>(2 * c, nc, dv_, A(1), y_, dv_, a.written, dv_, A(0), scores_, nc);
    d_.gradients(2, readers_, reads_, n_, writers_, scores_, dreaders_, dwriters_,
                 gated_ ? dlog_ : nullptr);
    for (Index e = 0; e < nc; ++e) {
      const Index i = e % c;
      const A own = scores_[i * nc + e];
      for (Index x = 0; x < dk_; ++x) {
        dreaders_[i * dk_ + x] += own * writers_[e * dk_ + x];
        dwriters_[e * dk_ + x] += own * readers_[i * dk_ + x];
      }
    }
  }
  /// Through what readers take of the incoming state, and into that where something `goes_on`.
  void through_incoming(const Chunk& z, const Head& a, bool goes_on) {
    const Index c = z.c;
    if (a.before || goes_on) {
      P::weigh_readers(c, 0);
    }
    if (a.before) {
      small_gemm<false, true, A>(2 * c, dk_, dv_, A(1), y_, dv_, a.before, dv_, A(0), products_,
                                 dk_);
      if (gated_) {
        d_.from_readers(0, c, 2, reads_, side_, products_, dlog_);
      }
      for (Index e = 0; e < 2 * c; ++e) {
        const A* __restrict f = d_.in(e % c, reads_[e / c]);
        for (Index x = 0; x < dk_; ++x) {
          dreaders_[e * dk_ + x] += f[x] * products_[e * dk_ + x];
        }
      }
    }
    if (goes_on) {
      P::decay_state(z.unread, a.ds);
      small_gemm<true, false, A>(dk_, dv_, 2 * c, A(1), side_, dk_, y_, dv_, A(1), a.ds, dv_);
    }
  }
  void store_decays(const Chunk& z, Index hv) {
    grad_.gk.store(z.b, z.t, hv, z.c, dk_, dlog_);
    for (Index e = 0; grad_.g.defined() && e < z.c; ++e) {
      A sum = 0;
      for (Index x = 0; x < dk_; ++x) {
        sum += dlog_[e * dk_ + x];
      }
      *grad_.g.at(z.b, z.t + e, hv) = sum;
    }
  }
  /// The gradients of q, k, a and b, complete when all value heads have added theirs.
  void store_vectors(const Chunk& z) {
    const Index c = z.c, rows = c * dk_;
    A* const derase = dreaders_ + rows;
    if (n_ == 1) {
      for (Index e = 0; e < rows; ++e) {
        dwriters_[e] += derase[e];
      }
    } else {
      for (Index e = 0; e < rows; ++e) {
        derase[e] = -derase[e];
      }
      grad_.a.store(z.b, z.t, z.h, c, dk_, derase);
      grad_.b.store(z.b, z.t, z.h, c, dk_, dwriters_ + rows);
    }
    if (grad_.q.defined()) {
      call_.through_norm(c, readers_, nq_, dreaders_);
      grad_.q.store(z.b, z.t, z.h, c, dk_, dreaders_);
    }
    if (grad_.k.defined()) {
      call_.through_norm(c, writers_, nk_, dwriters_);
      grad_.k.store(z.b, z.t, z.h, c, dk_, dwriters_);
    }
  }

  const common::Operand<T>& go_;
  const common::LastGradients<A>& dsT_;
  const Gradients<T>& grad_;
  const bool gated_;
  const Index most_, starts_ = common::pieces(call_.longest, most_) + 1;
  A *states_, *written_all_, *x_all_, *m_all_, *ds_all_, *y_, *dwritten_, *dreaders_, *products_,
      *dwriters_, *dlog_;
};

}  // namespace

template <class T>
void Channels<T>::forward(const Call<T>& call, DeltaRule::Out<TensorView>& out) {
  const common::Result<T> o(out.o);
  const common::LastStates<acc_t<T>> states(out.sT, call.heads * call.group, call.size, call.seqs);
  const Index most = common::chunk_of(call.form, call.longest);
  common::run_passes<ForwardPass<T>>(call, flops_per_token(call, most), most, o, states);
}

template <class T>
void Channels<T>::backward(const Call<T>& call, const DeltaRule::Out<TensorView>& dout,
                           DeltaRule::In<TensorView>& din) {
  const common::Operand<T> go(dout.o);
  const common::LastGradients<acc_t<T>> dsT(dout.sT, call.heads * call.group, call.size, call.seqs);
  const Gradients<T> grad(din, call);
  const Index most = common::chunk_of(call.form, call.longest);
  common::run_passes<BackwardPass<T>>(call, 3 * flops_per_token(call, most), most, go, dsT, grad);
  grad.s0.finish();
}

template struct Channels<double>;
template struct Channels<float>;
template struct Channels<bf16>;

}  // namespace ls::ops::delta_rule
