// Chunks of C tokens with a carried state S [Dk,Dv]; G is the running sum of log-decays in a chunk
// and D_ij = exp(G_i - G_j). What token i writes, W_i = beta_i * X_i, follows from the writes
// before it:
//   X_i = v_i - exp(G_i) k_i S - sum_{j<i} M_ij W_j,   M = tril_{-1}(K K^T * D)
// a unit-lower-triangular system, solved by blocks of 16 rows: products for what lies before a
// block, substitution inside it. No inverse is formed.
// Then
//   O = scale (exp(G) Q S + P W),  P = tril(Q K^T * D),   S' = exp(G_C) S + (exp(G_C - G) K)^T W.
// Backward: a pass forward keeps X, W, M and the incoming state of each chunk; a pass backward
// solves the same system transposed for dX. The rows of K act once as readers (in M and in exp(G) K
// S) and once as writers. dg_t sums what tokens before t (or S) write and tokens from t on (or S')
// read: each term has the factor exp(g_t), so a small dg is as exact as a large one. Queries and
// keys, and their gradients, lie one after the other, so that one product serves both. One task is
// one sequence and key head with its R = group value heads. Derivation: NOTES.md.
// Buffers of a thread, for chunks of at most C tokens and sequences of at most T:
//   qk, side [2,C,Dk]    queries and keys; rows times their decay
//   read     [2,C,Dv]    what queries and keys read from S; ends as the outputs (forward)
//   x, w     [C,Dv]      errors X and writes W      scores [2,C,C] Q K^T, K K^T      m [C,C] M or P
// and backward, what the first pass keeps for the second:
//   states [R,T/C+1,Dk,Dv]  x_all, w_all [R,T,Dv]  m_all [R,T,C]
//   ds_all [R,Dk,Dv]     gradient of the states after the chunk
//   dqk    [2,C,Dk]      gradients of queries and keys, summed over value heads
//   hqk    [2,C,Dk]      the same of one value head, of keys as readers; write [C,Dk] as writers
//   yx     [2,C,Dv]      dO and dX                  dw [C,Dv]
//   scores, p [C,C]      Q K^T and P                dscores [2,C,C] gradients of Q K^T, K K^T
//   nq, nk   [C]         factors of normalisation
//   pairs [C,C], past, carried [C]   what token i takes from token j, S' from j, i from S
// Memory moved: each operand and result once a value head, backward k and v twice.
#include "core/backend/cpu/small_gemm.h"
#include "core/op/declare.h"
#include "core/ops/delta_rule/delta_rule_kernels.h"

namespace ls::ops::delta_rule {
namespace {

using Op = DeltaRule;
using common::Chunk;

/// x = v - read; no read is zero.
template <class T, class A = acc_t<T>>
void missing(const Call<T>& call, const Chunk& z, Index hv, const A* read, A* x) {
  for (Index i = 0; i < z.c; ++i) {
    const T* __restrict v = call.v.at(z.b, z.t + i, hv);
    A* __restrict xi = x + i * call.dv;
    if (!read) {
      for (Index y = 0; y < call.dv; ++y) {
        xi[y] = convert<A>(v[y]);
      }
      continue;
    }
    for (Index y = 0; y < call.dv; ++y) {
      xi[y] = convert<A>(v[y]) - read[i * call.dv + y];
    }
  }
}

template <class T>
Index flops_per_token(const Call<T>& call, Index chunk) {
  return call.group * (6 * call.size + 3 * chunk * (call.dk + call.dv));
}

template <class T>
class ForwardPass {
  using A = acc_t<T>;

 public:
  ForwardPass(const Call<T>& call, Index most, const common::Result<T>& o,
              const common::LastStates<A>& states)
      : call_(call), o_(o), states_(states) {
    ws_.add(2 * most * dk_, qk_, side_);
    ws_.add(2 * most * dv_, read_);
    ws_.add(most * dv_, x_, w_);
    ws_.add(2 * most * most, scores_);
    ws_.add(most * most, m_);
    ws_.add(most, factor_);
    ws_.add(call.spare(), spare_);
    d_.reserve(ws_, most);
    ws_.allocate();
  }
  void run(Index task) {
    const common::Chunks chunks(call_.form, call_.seqs[task / call_.heads], task % call_.heads,
                                !call_.s0.at(task * call_.group), false);
    A* const states = states_.at(task * call_.group, spare_);
    call_.s0.copy(task * call_.group, call_.group, states);
    for (Index i = 0; i < chunks.count(); ++i) {
      const Chunk z = chunks[i];
      const Index c = z.c;
      A* const k = qk_ + c * dk_;
      call_.load_keys(call_.q, z.b, z.t, z.h, c, qk_, factor_);
      call_.load_keys(call_.k, z.b, z.t, z.h, c, k, factor_);
      small_gemm<false, true, A>(2 * c, c, dk_, A(1), qk_, dk_, k, dk_, A(0), scores_, c);
      for (Index r = 0; r < call_.group; ++r) {
        value_head(z, z.h * call_.group + r, states + r * call_.size);
      }
    }
  }

 private:
  /// Outputs, and the state s after the chunk.
  void value_head(const Chunk& z, Index hv, A* s) {
    const Index c = z.c;
    const A *q = qk_, *k = qk_ + c * dk_;
    call_.load_decays(z.b, z.t, hv, c, d_);
    if (!z.empty) {
      common::scale_rows(c, dk_, call_.scale, d_.in, q, side_);
      common::scale_rows(c, dk_, A(1), d_.in, k, side_ + c * dk_);
      small_gemm<false, false, A>(2 * c, dv_, dk_, A(1), side_, dk_, s, dv_, A(0), read_, dv_);
    }
    missing(call_, z, hv, z.empty ? nullptr : read_ + c * dv_, x_);
    common::mask_strictly(c, A(1), scores_ + c * c, d_.between, m_);
    solve(call_, z, hv, m_, c, x_, w_);
    common::mask(c, call_.scale, scores_, d_.between, m_);
    small_gemm<false, false, A>(c, dv_, c, A(1), m_, c, w_, dv_, z.empty ? A(0) : A(1), read_, dv_);
    o_.store(z.b, z.t, hv, c, dv_, read_);
    const A* writers = k;
    if (!d_.trivial) {
      common::scale_rows(c, dk_, A(1), d_.out, k, side_);
      writers = side_;
    }
    small_gemm<true, false, A>(dk_, dv_, c, A(1), writers, dk_, w_, dv_, d_.all, s, dv_);
  }

  const Call<T>& call_;
  const common::Result<T>& o_;
  const common::LastStates<A>& states_;
  const Index dk_ = call_.dk, dv_ = call_.dv;
  common::Workspace<A> ws_;
  common::Decays<A> d_;
  A *qk_, *side_, *read_, *x_, *w_, *scores_, *m_, *factor_, *spare_;
};

template <class T>
class BackwardPass {
  using A = acc_t<T>;

 public:
  BackwardPass(const Call<T>& call, Index most, const common::Operand<T>& go,
               const common::LastGradients<A>& dsT, const Gradients<T>& grad)
      : call_(call), go_(go), dsT_(dsT), grad_(grad), most_(most) {
    ws_.add(group_ * starts_ * size_, states_);
    ws_.add(group_ * length_ * dv_, x_all_, w_all_);
    ws_.add(group_ * length_ * most, m_all_);
    ws_.add(group_ * size_, ds_all_);
    ws_.add(2 * most * dk_, qk_, dqk_, hqk_, side_);
    ws_.add(most * dk_, write_);
    ws_.add(2 * most * dv_, yx_);
    ws_.add(most * dv_, dw_);
    ws_.add(most * most, scores_, p_);
    ws_.add(2 * most * most, dscores_);
    ws_.add(most, nq_, nk_, past_, carried_);
    ws_.add(most * most, pairs_);
    d_.reserve(ws_, most);
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
      const Chunk z = chunks[i];
      call_.load_keys(call_.k, z.b, z.t, z.h, z.c, qk_, nk_);
      small_gemm<false, true, A>(z.c, z.c, dk_, A(1), qk_, dk_, qk_, dk_, A(0), scores_, z.c);
      for (Index r = 0; r < group_; ++r) {
        keep(z, head_of(z, i, r));
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
    Index r, hv;
    A *before, *after;  ///< states; `before` is null where it is zero
    A *x, *w, *m, *ds;
  };
  Head head_of(const Chunk& z, Index chunk, Index r) const {
    A* const s = states_ + (r * starts_ + chunk) * size_;
    const Index row = r * length_ + z.i;
    return {.r = r,
            .hv = z.h * group_ + r,
            .before = z.empty ? nullptr : s,
            .after = s + size_,
            .x = x_all_ + row * dv_,
            .w = w_all_ + row * dv_,
            .m = m_all_ + row * most_,
            .ds = ds_all_ + r * size_};
  }

  /// The pass forward: X, W, M and the state after the chunk. qk_ holds the keys.
  void keep(const Chunk& z, const Head& a) {
    const Index c = z.c;
    call_.load_decays(z.b, z.t, a.hv, c, d_);
    if (a.before) {
      common::scale_rows(c, dk_, A(1), d_.in, qk_, side_);
      small_gemm<false, false, A>(c, dv_, dk_, A(1), side_, dk_, a.before, dv_, A(0), yx_, dv_);
    }
    missing(call_, z, a.hv, a.before ? yx_ : nullptr, a.x);
    common::mask_strictly(c, A(1), scores_, d_.between, a.m);
    solve(call_, z, a.hv, a.m, c, a.x, a.w);
    if (z.unread) {
      return;
    }
    common::scale_rows(c, dk_, A(1), d_.out, qk_, side_);
    if (a.before) {
      std::copy(a.before, a.before + size_, a.after);
    }
    small_gemm<true, false, A>(dk_, dv_, c, A(1), side_, dk_, a.w, dv_, a.before ? d_.all : A(0),
                               a.after, dv_);
  }

  /// The pass backward: all gradients of a chunk, and ds_all before it where something
  /// `goes_on`.
  void gradients(const Chunk& z, Index chunk, bool goes_on) {
    const Index c = z.c;
    A *q = qk_, *k = qk_ + c * dk_;
    call_.load_keys(call_.q, z.b, z.t, z.h, c, q, nq_);
    call_.load_keys(call_.k, z.b, z.t, z.h, c, k, nk_);
    small_gemm<false, true, A>(c, c, dk_, A(1), q, dk_, k, dk_, A(0), scores_, c);
    for (Index r = 0; r < group_; ++r) {
      const Head a = head_of(z, chunk, r);
      call_.load_decays(z.b, z.t, a.hv, c, d_);
      const bool passed = grad_.g.defined() && a.before && !z.unread;
      const A through = passed ? d_.all * common::dot(size_, a.before, a.ds) : A(0);
      of_writes(z, a);
      solve_transposed(call_, z, a.hv, a.m, c, dw_, yx_ + c * dv_);
      of_readers_and_writers(z, a);
      if (goes_on) {
        common::scale_rows(c, dk_, call_.scale, d_.in, q, side_);
        common::scale_rows(c, dk_, A(-1), d_.in, k, side_ + c * dk_);
        small_gemm<true, false, A>(dk_, dv_, 2 * c, A(1), side_, dk_, yx_, dv_, d_.all, a.ds, dv_);
      }
      sum_up(z, a, through);
    }
    if (grad_.q.defined()) {
      call_.through_norm(c, q, nq_, dqk_);
      grad_.q.store(z.b, z.t, z.h, c, dk_, dqk_);
    }
    if (grad_.k.defined()) {
      call_.through_norm(c, k, nk_, dqk_ + c * dk_);
      grad_.k.store(z.b, z.t, z.h, c, dk_, dqk_ + c * dk_);
    }
  }
  /// dw: into W from the outgoing state and from the outputs; and the state's share of `write`.
  void of_writes(const Chunk& z, const Head& a) {
    const Index c = z.c;
    if (!z.unread) {
      common::scale_rows(c, dk_, A(1), d_.out, qk_ + c * dk_, side_);
      small_gemm<false, false, A>(c, dv_, dk_, A(1), side_, dk_, a.ds, dv_, A(0), dw_, dv_);
      small_gemm<false, true, A>(c, dk_, dv_, A(1), a.w, dv_, a.ds, dv_, A(0), write_, dk_);
      common::scale_rows(c, dk_, A(1), d_.out, write_);
    }
    if (grad_.g.defined()) {
      for (Index e = 0; e < c; ++e) {
        past_[e] = z.unread ? A(0) : common::dot(dk_, qk_ + (c + e) * dk_, write_ + e * dk_);
      }
    }
    if (go_.defined()) {
      go_.load(z.b, z.t, a.hv, c, dv_, yx_);
      common::mask(c, call_.scale, scores_, d_.between, p_);
      small_gemm<true, false, A>(c, dv_, c, A(1), p_, c, yx_, dv_, z.unread ? A(0) : A(1), dw_,
                                 dv_);
    } else {
      std::fill(yx_, yx_ + c * dv_, A(0));
    }
  }
  /// Into the two score matrices, and from there and from S into readers and writers.
  void of_readers_and_writers(const Chunk& z, const Head& a) {
    const Index c = z.c;
    small_gemm<false, true, A>(2 * c, c, dv_, A(1), yx_, dv_, a.w, dv_, A(0), dscores_, c);
    if (grad_.g.defined()) {
      pairs_of(c, a);
    }
    common::mask(c, call_.scale, dscores_, d_.between, dscores_);
    common::mask_strictly(c, A(-1), dscores_ + c * c, d_.between, dscores_ + c * c);
    if (a.before) {
      small_gemm<false, true, A>(2 * c, dk_, dv_, A(1), yx_, dv_, a.before, dv_, A(0), hqk_, dk_);
      common::scale_rows(c, dk_, call_.scale, d_.in, hqk_);
      common::scale_rows(c, dk_, A(-1), d_.in, hqk_ + c * dk_);
    }
    for (Index e = 0; grad_.g.defined() && e < c; ++e) {
      carried_[e] = a.before ? common::dot(dk_, qk_ + e * dk_, hqk_ + e * dk_) +
                                   common::dot(dk_, qk_ + (c + e) * dk_, hqk_ + (c + e) * dk_)
                             : A(0);
    }
    small_gemm<false, false, A>(2 * c, dk_, c, A(1), dscores_, c, qk_ + c * dk_, dk_,
                                a.before ? A(1) : A(0), hqk_, dk_);
    small_gemm<true, false, A>(c, dk_, 2 * c, A(1), dscores_, c, qk_, dk_, z.unread ? A(0) : A(1),
                               write_, dk_);
  }
  /// The shares of the loss that queries and keys of token i take from what token j wrote, from the
  /// masked scores and the gradients of unmasked ones.
  void pairs_of(Index c, const Head& a) {
    const A* const keys = dscores_ + c * c;
    if (go_.defined()) {
      for (Index e = 0; e < c * c; ++e) {
        pairs_[e] = p_[e] * dscores_[e] - a.m[e] * keys[e];
      }
    } else {
      for (Index e = 0; e < c * c; ++e) {
        pairs_[e] = -a.m[e] * keys[e];
      }
    }
  }
  /// A value head's share of dq and dk, and its own gradients of v, beta and g.
  void sum_up(const Chunk& z, const Head& a, A through) {
    const Index c = z.c;
    for (Index e = 0; e < c; ++e) {
      const A* __restrict hq = hqk_ + e * dk_;
      const A* __restrict hk = hqk_ + (c + e) * dk_;
      const A* __restrict write = write_ + e * dk_;
      A* __restrict gq = dqk_ + e * dk_;
      A* __restrict gk = dqk_ + (c + e) * dk_;
      if (a.r == 0) {
        for (Index u = 0; u < dk_; ++u) {
          gq[u] = hq[u];
          gk[u] = hk[u] + write[u];
        }
      } else {
        for (Index u = 0; u < dk_; ++u) {
          gq[u] += hq[u];
          gk[u] += hk[u] + write[u];
        }
      }
      grad_.store_beta(z.b, z.t + e, a.hv, dv_, dw_ + e * dv_, a.x + e * dv_);
    }
    grad_.v.store(z.b, z.t, a.hv, c, dv_, yx_ + c * dv_);
    if (grad_.g.defined()) {
      common::decay_gradients(c, pairs_, past_, carried_, through,
                              [&](Index e, A dg) { *grad_.g.at(z.b, z.t + e, a.hv) = dg; });
    }
  }

  const Call<T>& call_;
  const common::Operand<T>& go_;
  const common::LastGradients<A>& dsT_;
  const Gradients<T>& grad_;
  const Index most_, length_ = call_.longest, starts_ = common::pieces(length_, most_) + 1;
  const Index dk_ = call_.dk, dv_ = call_.dv, size_ = call_.size, group_ = call_.group;
  common::Workspace<A> ws_;
  common::Decays<A> d_;
  A *states_, *x_all_, *w_all_, *m_all_, *ds_all_, *qk_, *dqk_, *hqk_, *side_, *write_, *yx_, *dw_,
      *scores_, *p_, *dscores_, *nq_, *nk_, *past_, *carried_, *pairs_;
};

template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& attrs) {
  using A = acc_t<T>;
  const Call<T> call(in, attrs);
  common::report_scan<Op>(attrs, call.longest);
  const bool recurrent = common::is_recurrent(attrs, call.longest);
  if (call.by_channels()) {
    (recurrent ? &ChannelsRecurrent<T>::forward : &Channels<T>::forward)(call, out);
    return;
  }
  if (recurrent) {
    Recurrent<T>::forward(call, out);
    return;
  }
  const common::Result<T> o(out.o);
  const common::LastStates<A> states(out.sT, call.heads * call.group, call.size, call.seqs);
  const Index most = common::chunk_of(attrs, call.longest);
  common::run_passes<ForwardPass<T>>(call, flops_per_token(call, most), most, o, states);
}

template <class T>
void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs& attrs) {
  using A = acc_t<T>;
  const Call<T> call(in, attrs);
  const bool recurrent = common::is_recurrent(attrs, call.longest);
  if (call.by_channels()) {
    (recurrent ? &ChannelsRecurrent<T>::backward : &Channels<T>::backward)(call, dout, din);
    return;
  }
  if (recurrent) {
    Recurrent<T>::backward(call, dout, din);
    return;
  }
  const common::Operand<T> go(dout.o);
  const common::LastGradients<A> dsT(dout.sT, call.heads * call.group, call.size, call.seqs);
  const Gradients<T> grad(din, call);
  const Index most = common::chunk_of(attrs, call.longest);
  common::run_passes<BackwardPass<T>>(call, 3 * flops_per_token(call, most), most, go, dsT, grad);
  grad.s0.finish();
}

LS_KERNEL(DeltaRule)
    .reads("q k v a b gk o", lies::heads)
    .reads("g beta", lies::anyhow)
    .strided_grad("q k v a b o")
    .types<double, float, bf16>([]<class T>() { return std::pair(&forward<T>, &backward<T>); });

}  // namespace
}  // namespace ls::ops::delta_rule
