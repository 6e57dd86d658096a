// Chunks of C tokens with a carried state S [Dk,Dv] and no, constant or scalar decays; G is the
// running sum of log-decays in a chunk. (Decays per channel: decayed_linear_channels_cpu.cpp.)
//   P = tril(Q K^T) * exp(G_i - G_j),  O = scale (exp(G) Q S + P V)
//   S' = exp(G_C) S + (exp(G_C - G) K)^T V
// Backward: a pass forward keeps the incoming state of each chunk, a pass backward carries dS;
// dg_t sums what tokens before t (or S) write and tokens from t on (or S') read: each term has the
// factor exp(g_t), so a small dg is as exact as a large one (NOTES.md). A task is one sequence and
// state head; the R = group query heads that read it lie one after the other, so that one product
// serves them all. Buffers of a thread, for chunks of at most C tokens:
//   q, gq, side  [R,C,Dk]    queries, their gradients; rows times their decay
//   k, gk        [C,Dk]      v, gv [C,Dv]      y [R,C,Dv] outputs, or their incoming gradients
//   p, dp        [R,C,C]     scores and their gradients
//   states       [T/C+1,Dk,Dv] (backward)      ds [Dk,Dv] gradient of the state after the chunk
//   w [C,C]      token i's share of the loss that token j wrote      past, carried [C]
// Memory moved: each operand and result once, backward k and v twice.
#include "core/backend/cpu/small_gemm.h"
#include "core/op/declare.h"
#include "core/ops/decayed_linear/decayed_linear_kernels.h"

namespace ls::ops::decayed_linear {
namespace {

using Op = DecayedLinear;
using common::Chunk;

template <class T>
Index flops_per_token(const Call<T>& call, Index chunk) {
  return 2 * (call.group + 1) * call.size + 2 * call.group * chunk * (call.dk + call.dv);
}

/// What both passes do with a chunk: one thread's operands.
template <class T>
class Pass {
 protected:
  using A = acc_t<T>;
  Pass(const Call<T>& call, Index most) : call_(call) {
    ws_.add(group_ * most * dk_, q_, side_);
    ws_.add(most * dk_, k_);
    ws_.add(most * dv_, v_);
    ws_.add(group_ * most * dv_, y_);
    ws_.add(group_ * most * most, p_);
    d_.reserve(ws_, most);
  }
  common::Chunks chunks_of(Index task, bool end_unread) const {
    return {call_.form, call_.seqs[task / call_.heads], task % call_.heads, !call_.s0.at(task),
            end_unread};
  }
  /// Decays, keys and values.
  void load(const Chunk& x) {
    call_.load_decays(x.b, x.t, x.h, x.c, d_);
    call_.load_keys(x.b, x.t, x.h, x.c, k_);
    call_.v.load(x.b, x.t, x.h, x.c, dv_, v_);
  }
  /// rows [R,c,Dk], one after the other, of the queries that read the state.
  void load_queries(const Chunk& x) const {
    for (Index j = 0; j < group_; ++j) {
      call_.load_queries(x.b, x.t, x.h, j, x.c, q_ + j * x.c * dk_);
    }
  }
  /// scale exp(G) from [R,c,Dk]; `to` may be `from`.
  void decay_queries(const Chunk& x, const A* from, A* to) const {
    const Index size = x.c * dk_;
    for (Index j = 0; j < group_; ++j) {
      if (from == to) {
        common::scale_rows(x.c, dk_, call_.scale, d_.in, to + j * size);
      } else {
        common::scale_rows(x.c, dk_, call_.scale, d_.in, from + j * size, to + j * size);
      }
    }
  }
  /// scale exp(G_i - G_j) times scores [R,c,c], zero above the diagonal, in place.
  void mask(const Chunk& x, A* scores) const {
    for (Index j = 0; j < group_; ++j) {
      A* const p = scores + j * x.c * x.c;
      common::mask(x.c, call_.scale, p, d_.between, p);
    }
  }
  /// S' from S, in place.
  void advance(const Chunk& x, A* s) {
    const A* writers = k_;
    if (!d_.trivial) {
      common::scale_rows(x.c, dk_, A(1), d_.out, k_, side_);
      writers = side_;
    }
    small_gemm<true, false, A>(dk_, dv_, x.c, A(1), writers, dk_, v_, dv_, x.empty ? A(0) : d_.all,
                               s, dv_);
  }

  const Call<T>& call_;
  const Index dk_ = call_.dk, dv_ = call_.dv, size_ = call_.size, group_ = call_.group;
  common::Workspace<A> ws_;
  common::Decays<A> d_;
  A *q_, *k_, *side_, *v_, *y_, *p_;
};

template <class T>
class ForwardPass : Pass<T> {
  using A = acc_t<T>;
  using Pass<T>::call_, Pass<T>::d_, Pass<T>::dk_, Pass<T>::dv_, Pass<T>::size_, Pass<T>::group_;
  using Pass<T>::q_, Pass<T>::k_, Pass<T>::v_, Pass<T>::y_, Pass<T>::p_, Pass<T>::side_,
      Pass<T>::ws_;
  using Pass<T>::chunks_of, Pass<T>::load, Pass<T>::load_queries;
  using Pass<T>::decay_queries, Pass<T>::mask, Pass<T>::advance;

 public:
  ForwardPass(const Call<T>& call, Index most, const common::Result<T>& o,
              const common::LastStates<A>& states)
      : Pass<T>(call, most), o_(o), states_(states) {
    ws_.add(call.spare(), spare_);
    ws_.allocate();
  }
  void run(Index task) {
    const common::Chunks chunks = chunks_of(task, false);
    A* const s = states_.at(task, spare_);
    call_.s0.copy(task, 1, s);
    for (Index z = 0; z < chunks.count(); ++z) {
      const Chunk x = chunks[z];
      load(x);
      load_queries(x);
      outputs(x, s);
      for (Index j = 0; j < group_; ++j) {
        o_.store(x.b, x.t, call_.map.out_of(x.h, j), x.c, dv_, y_ + j * x.c * dv_);
      }
      advance(x, s);
    }
  }

 private:
  void outputs(const Chunk& x, const A* s) {
    const Index c = x.c, rows = group_ * c, dk = dk_, dv = dv_;
    small_gemm<false, true, A>(rows, c, dk, A(1), q_, dk, k_, dk, A(0), p_, c);
    if (!x.empty) {
      decay_queries(x, q_, side_);
      small_gemm<false, false, A>(rows, dv, dk, A(1), side_, dk, s, dv, A(0), y_, dv);
    }
    mask(x, p_);
    small_gemm<false, false, A>(rows, dv, c, A(1), p_, c, v_, dv, x.empty ? A(0) : A(1), y_, dv);
  }

  const common::Result<T>& o_;
  const common::LastStates<A>& states_;
  A* spare_;
};

template <class T>
class BackwardPass : Pass<T> {
  using A = acc_t<T>;
  using Pass<T>::call_, Pass<T>::d_, Pass<T>::dk_, Pass<T>::dv_, Pass<T>::size_, Pass<T>::group_;
  using Pass<T>::q_, Pass<T>::k_, Pass<T>::v_, Pass<T>::y_, Pass<T>::p_, Pass<T>::side_,
      Pass<T>::ws_;
  using Pass<T>::chunks_of, Pass<T>::load, Pass<T>::load_queries;
  using Pass<T>::decay_queries, Pass<T>::mask, Pass<T>::advance;

 public:
  BackwardPass(const Call<T>& call, Index most, const common::Operand<T>& go,
               const common::LastGradients<A>& dsT, const Gradients<T>& grad)
      : Pass<T>(call, most), go_(go), dsT_(dsT), grad_(grad) {
    ws_.add((common::pieces(call.longest, most) + 1) * call.size, states_);
    ws_.add(call.size, ds_);
    ws_.add(call.group * most * call.dk, gq_);
    ws_.add(most * call.dk, gk_);
    ws_.add(most * call.dv, gv_);
    ws_.add(call.group * most * most, dp_);
    ws_.add(most * most, w_);
    ws_.add(most, past_, carried_);
    ws_.allocate();
  }
  void run(Index task) {
    const common::Chunks chunks = chunks_of(task, !dsT_.at(task) && go_.defined());
    const Index size = size_;
    call_.s0.copy(task, 1, states_);
    for (Index z = 0; z < chunks.count(); ++z) {
      const Chunk x = chunks[z];
      A* const next = states_ + (z + 1) * size;
      if (x.unread) {
        break;
      }
      if (!x.empty) {
        std::copy(next - size, next, next);
      }
      load(x);
      advance(x, next);
    }
    dsT_.copy(task, 1, ds_);
    for (Index z = chunks.count() - 1; z >= 0; --z) {
      gradients(chunks[z], states_ + z * size, z > 0 || grad_.s0.at(task));
    }
    if (A* const to = grad_.s0.at(task)) {
      std::copy(ds_, ds_ + size, to);
    }
  }

 private:
  /// From the incoming state s and ds, which becomes that of s where something `goes_on`.
  void gradients(const Chunk& x, const A* s, bool goes_on) {
    load(x);
    const bool gated = grad_.g.defined();
    const A through = gated && !x.unread && !x.empty ? d_.all * common::dot(size_, s, ds_) : A(0);
    if (!x.unread) {
      from_state(x);
    }
    if (gated) {
      for (Index e = 0; e < x.c; ++e) {
        past_[e] = x.unread ? A(0) : common::dot(dk_, k_ + e * dk_, gk_ + e * dk_);
      }
    }
    if (go_.defined()) {
      from_outputs(x, s, goes_on);
    } else {
      std::fill(gq_, gq_ + group_ * x.c * dk_, A(0));
      for (Index e = 0; e < size_; ++e) {
        ds_[e] *= d_.all;
      }
    }
    for (Index j = 0; j < group_; ++j) {
      grad_.store_q(x.b, x.t, x.h, j, x.c, call_, gq_ + j * x.c * dk_);
    }
    grad_.store_k(x.b, x.t, x.h, x.c, call_, gk_);
    grad_.v.store(x.b, x.t, x.h, x.c, dv_, gv_);
    if (gated) {
      const bool read = go_.defined();
      common::decay_gradients(x.c, read ? w_ : nullptr, past_, read ? carried_ : nullptr, through,
                              [&](Index e, A dg) { *grad_.g.at(x.b, x.t + e, x.h) = dg; });
    }
  }
  /// w_ij from the masked scores and the gradients of unmasked ones, over the heads that read.
  void weigh(const Chunk& x) {
    const Index n = x.c * x.c;
    for (Index e = 0; e < n; ++e) {
      w_[e] = p_[e] * dp_[e];
    }
    for (Index j = 1; j < group_; ++j) {
      const A *p = p_ + j * n, *dp = dp_ + j * n;
      for (Index e = 0; e < n; ++e) {
        w_[e] += p[e] * dp[e];
      }
    }
  }
  /// Through what the chunk writes into S'.
  void from_state(const Chunk& x) {
    const Index c = x.c, dk = dk_, dv = dv_;
    small_gemm<false, true, A>(c, dk, dv, A(1), v_, dv, ds_, dv, A(0), gk_, dk);
    common::scale_rows(c, dk, A(1), d_.out, gk_);
    common::scale_rows(c, dk, A(1), d_.out, k_, side_);
    small_gemm<false, false, A>(c, dv, dk, A(1), side_, dk, ds_, dv, A(0), gv_, dv);
  }
  /// Through the outputs.
  void from_outputs(const Chunk& x, const A* s, bool goes_on) {
    const Index c = x.c, rows = group_ * c, dk = dk_, dv = dv_;
    const A keep_q = x.empty ? A(0) : A(1), keep_kv = x.unread ? A(0) : A(1);
    load_queries(x);
    for (Index j = 0; j < group_; ++j) {
      go_.load(x.b, x.t, call_.map.out_of(x.h, j), c, dv, y_ + j * c * dv);
    }
    small_gemm<false, true, A>(rows, c, dk, A(1), q_, dk, k_, dk, A(0), p_, c);
    small_gemm<false, true, A>(rows, c, dv, A(1), y_, dv, v_, dv, A(0), dp_, c);
    const bool gated = grad_.g.defined();
    mask(x, p_);
    if (gated) {
      weigh(x);
      std::fill(carried_, carried_ + c, A(0));
    }
    mask(x, dp_);
    if (!x.empty) {
      small_gemm<false, true, A>(rows, dk, dv, A(1), y_, dv, s, dv, A(0), gq_, dk);
      decay_queries(x, gq_, gq_);
      for (Index e = 0; gated && e < rows; ++e) {
        carried_[e % c] += common::dot(dk, q_ + e * dk, gq_ + e * dk);
      }
    }
    small_gemm<false, false, A>(rows, dk, c, A(1), dp_, c, k_, dk, keep_q, gq_, dk);
    small_gemm<true, false, A>(c, dk, rows, A(1), dp_, c, q_, dk, keep_kv, gk_, dk);
    small_gemm<true, false, A>(c, dv, rows, A(1), p_, c, y_, dv, keep_kv, gv_, dv);
    if (goes_on) {
      decay_queries(x, q_, side_);
      small_gemm<true, false, A>(dk, dv, rows, A(1), side_, dk, y_, dv, d_.all, ds_, dv);
    }
  }

  const common::Operand<T>& go_;
  const common::LastGradients<A>& dsT_;
  const Gradients<T>& grad_;
  A *states_, *ds_, *gq_, *gk_, *gv_, *dp_, *w_, *past_, *carried_;
};

template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& attrs) {
  using A = acc_t<T>;
  const Call<T> call(in, attrs);
  common::report_scan<Op>(attrs, call.longest);
  if (common::is_recurrent(attrs, call.longest)) {
    Recurrent<T>::forward(call, out);
    return;
  }
  if (call.by_channel()) {
    ByChannel<T>::forward(call, out);
    return;
  }
  const common::Result<T> o(out.o);
  const common::LastStates<A> states(out.sT, call.heads, call.size, call.seqs);
  const Index most = common::chunk_of(attrs, call.longest);
  common::run_passes<ForwardPass<T>>(call, flops_per_token(call, most), most, o, states);
}

template <class T>
void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs& attrs) {
  using A = acc_t<T>;
  const Call<T> call(in, attrs);
  if (common::is_recurrent(attrs, call.longest)) {
    Recurrent<T>::backward(call, dout, din);
    return;
  }
  if (call.by_channel()) {
    ByChannel<T>::backward(call, dout, din);
    return;
  }
  const common::Operand<T> go(dout.o);
  const common::LastGradients<A> dsT(dout.sT, call.heads, call.size, call.seqs);
  Gradients<T> grad(din, call);
  const Index most = common::chunk_of(attrs, call.longest);
  run_backward<BackwardPass<T>>(call, 3 * flops_per_token(call, most), most, go, dsT, grad);
  grad.finish();
}

LS_KERNEL(DecayedLinear)
    .reads("q k v gk gv o", lies::heads)
    .reads("g", lies::anyhow)
    .strided_grad("q k v gk gv o")
    .types<double, float, bf16>([]<class T>() { return std::pair(&forward<T>, &backward<T>); });

}  // namespace
}  // namespace ls::ops::decayed_linear
