// Chunks of C tokens with a carried state c [Dk,Dv], n [Dk], m; G is the running sum of f in a
// chunk, m_i the running maximum, and all factors are at most 1 (NOTES.md):
//   between_ij = exp(G_i - G_j + i_j - m_i)   in_i = exp(G_i + m - m_i)
//   out_j = exp(G_C - G_j + i_j - m_C)
//   P = scale tril(Q K^T) * between,   N = scale in(Q) c + P V,   d = scale in(Q) n + P 1
//   O = N / (max(|d|, exp(-m_i)) + eps)
//   c' = in_C c + (out K)^T V,   n' = in_C n + (out K)^T 1,   m' = m_C
// Backward: a pass forward keeps the states, a pass backward carries the gradients of c and n, and
// of m where the true states exp(m) c and exp(m) n stay: that one is what eps and mT give, and goes
// to the gate that m comes from. Gradients of f as in decayed_linear. A task is one sequence and
// head. Buffers of a thread, for chunks of at most C tokens:
//   q, k, side, gq, gk [C,Dk]    v, y, gv [C,Dv] y: outputs, or their gradients
//   p, g [C,C]     weighed scores, and the gradients of what they weigh      cg [C,Dk] of in(Q)
//   w [C,C]        gradients of scores, then shares of the loss
//   below, sum [C] what outputs are divided by, and d       dsum, direct [C] gradients of d and m
//   past, carried, di, df [C]      c_all, n_all, m_all [T/C+1,...] states before each chunk
// Memory moved: each operand and result once, backward k and v twice.
#include "core/backend/cpu/small_gemm.h"
#include "core/ops/mlstm/mlstm_kernels.h"

namespace ls::ops::mlstm {
namespace {

using Op = Mlstm;
using common::Chunk;

template <class T>
Index flops_per_token(const Call<T>& call, Index chunk) {
  return 4 * call.size + 2 * chunk * (call.dk + call.dv);
}

/// The gates of a chunk, from the m before it.
template <class A>
struct Gates {
  A *input, *m, *in, *out, *between;  ///< [C] and [C,C], as in the head of this file
  std::vector<char> from_input;       ///< m_i = i_i
  A all = 1, last = 0;                ///< in_C, m_C

  void reserve(common::Workspace<A>& ws, Index c) {
    ws.add(c, high_, low_, input, m, in, out);
    ws.add(c * c, between);
    from_input.resize(static_cast<std::size_t>(c));
  }
  template <class T>
  void load(const Call<T>& call, const Chunk& z, A before) {
    A sum = 0, rest = 0;
    last = before;
    for (Index e = 0; e < z.c; ++e) {
      const A given = *call.f.at(z.b, z.t + e, z.h);
      const A x = given < A(-2000) ? A(-2000) : given;  // as good as -infinity, and finite
      const A next = sum + x, back = next - sum;
      rest += (sum - (next - back)) + (x - back);
      high_[e] = sum = next;
      low_[e] = rest;
      input[e] = *call.i.at(z.b, z.t + e, z.h);
      from_input[static_cast<std::size_t>(e)] = input[e] > x + last;
      m[e] = last = call.next(last, input[e], x);
    }
    for (Index i = 0; i < z.c; ++i) {
      in[i] = weight((high_[i] + low_[i]) + (before - m[i]));
      out[i] = weight(((sum - high_[i]) + (rest - low_[i])) + (input[i] - last));
      A* __restrict row = between + i * z.c;
      const A hi = high_[i], lo = low_[i], mi = m[i];
      for (Index j = 0; j <= i; ++j) {
        row[j] = weight(((hi - high_[j]) + (lo - low_[j])) + (input[j] - mi));
      }
      std::fill(row + i + 1, row + z.c, A(0));
    }
    all = in[z.c - 1];
  }

 private:
  /// e^x, 0 below the smallest normal number: products with subnormal ones are slow.
  static A weight(A x) {
    constexpr A kLowest = sizeof(A) == 4 ? A(-87.3) : A(-708.3);
    const A y = simd::exp(x);
    return x < kLowest ? A(0) : y;
  }
  A *high_, *low_;  // G in two parts, as in common::Decays
};

/// What both passes do with a chunk: one thread's operands.
template <class T>
class Pass {
 protected:
  using A = acc_t<T>;
  Pass(const Call<T>& call, Index most) : call_(call) {
    ws_.add(most * dk_, q_, k_, side_);
    ws_.add(most * dv_, v_, y_);
    ws_.add(most * most, p_);
    ws_.add(most, below_, sum_);
    gates_.reserve(ws_, most);
  }
  common::Chunks chunks_of(Index task, bool end_unread) const {
    return {call_.form, call_.seqs[task / call_.heads], task % call_.heads,
            call_.starts_empty(task), end_unread};
  }
  /// Gates, keys and values.
  void load(const Chunk& z, A m) {
    gates_.load(call_, z, m);
    call_.k.load(z.b, z.t, z.h, z.c, dk_, k_);
    call_.v.load(z.b, z.t, z.h, z.c, dv_, v_);
  }
  /// Queries, weighed scores p and their sums: d, as far as it comes from the chunk.
  void score(const Chunk& z) {
    const Index c = z.c;
    call_.q.load(z.b, z.t, z.h, c, dk_, q_);
    small_gemm<false, true, A>(c, c, dk_, A(1), q_, dk_, k_, dk_, A(0), p_, c);
    common::mask(c, call_.scale, p_, gates_.between, p_);
    for (Index i = 0; i < c; ++i) {
      A sum = 0;
      for (Index j = 0; j <= i; ++j) {
        sum += p_[i * c + j];
      }
      sum_[i] = sum;
    }
  }
  /// side = scale in(Q), and d.
  void read_state(Index c, const A* n) {
    common::scale_rows(c, dk_, call_.scale, gates_.in, q_, side_);
    for (Index i = 0; i < c; ++i) {
      sum_[i] += common::dot(dk_, side_ + i * dk_, n);
    }
  }
  /// What the outputs are divided by.
  void divide(Index c) {
    for (Index i = 0; i < c; ++i) {
      below_[i] = call_.normalize ? std::max(std::abs(sum_[i]), floor(i)) + call_.eps : A(1);
    }
  }
  A floor(Index i) const { return simd::exp(-gates_.m[i]); }
  /// The state after the chunk, in place.
  void advance(const Chunk& z, const State<A>& s) {
    const Index c = z.c;
    common::scale_rows(c, dk_, A(1), gates_.out, k_, side_);
    const A keep = z.empty ? A(0) : gates_.all;
    small_gemm<true, false, A>(dk_, dv_, c, A(1), side_, dk_, v_, dv_, keep, s.c, dv_);
    for (Index x = 0; x < dk_; ++x) {
      s.n[x] *= keep;
    }
    for (Index e = 0; e < c; ++e) {
      for (Index x = 0; x < dk_; ++x) {
        s.n[x] += side_[e * dk_ + x];
      }
    }
    *s.m = gates_.last;
  }

  const Call<T>& call_;
  const Index dk_ = call_.dk, dv_ = call_.dv, size_ = call_.size;
  common::Workspace<A> ws_;
  Gates<A> gates_;
  A *q_, *k_, *side_, *v_, *y_, *p_, *below_, *sum_;
};

template <class T>
class ForwardPass : Pass<T> {
  using A = acc_t<T>;
  using P = Pass<T>;
  using P::call_, P::dk_, P::dv_, P::size_, P::p_, P::v_, P::y_, P::side_, P::below_;

 public:
  ForwardPass(const Call<T>& call, Index most, const common::Result<T>& o,
              const LastStates<T>& states)
      : P(call, most), o_(o), states_(states) {
    P::ws_.add(states.spare, spare_);
    P::ws_.allocate();
  }
  void run(Index task) {
    const State<A> s = states_.at(task, spare_, size_, dk_);
    s.load(call_.c0, call_.n0, call_.m0, task);
    const common::Chunks chunks = P::chunks_of(task, false);
    for (Index i = 0; i < chunks.count(); ++i) {
      const Chunk z = chunks[i];
      P::load(z, *s.m);
      outputs(z, s);
      P::advance(z, s);
    }
  }

 private:
  void outputs(const Chunk& z, const State<A>& s) {
    const Index c = z.c;
    P::score(z);
    if (!z.empty) {
      P::read_state(c, s.n);
      small_gemm<false, false, A>(c, dv_, dk_, A(1), side_, dk_, s.c, dv_, A(0), y_, dv_);
    }
    small_gemm<false, false, A>(c, dv_, c, A(1), p_, c, v_, dv_, z.empty ? A(0) : A(1), y_, dv_);
    P::divide(c);
    for (Index i = 0; i < c; ++i) {
      const A f = A(1) / below_[i];
      for (Index x = 0; x < dv_; ++x) {
        y_[i * dv_ + x] *= f;
      }
    }
    o_.store(z.b, z.t, z.h, c, dv_, y_);
  }

  const common::Result<T>& o_;
  const LastStates<T>& states_;
  A* spare_;
};

template <class T>
class BackwardPass : Pass<T> {
  using A = acc_t<T>;
  using P = Pass<T>;
  using P::call_, P::dk_, P::dv_, P::size_, P::ws_, P::gates_;
  using P::q_, P::k_, P::v_, P::y_, P::p_, P::side_, P::below_, P::sum_;

 public:
  BackwardPass(const Call<T>& call, Index most, const common::Operand<T>& go,
               const LastGradients<T>& dsT, const Gradients<T>& grad)
      : P(call, most), go_(go), dsT_(dsT), grad_(grad) {
    const Index starts = common::pieces(call.longest, most) + 1;
    ws_.add(starts * size_, c_all_);
    ws_.add(starts * dk_, n_all_);
    ws_.add(starts, m_all_);
    ws_.add(size_, dc_);
    ws_.add(dk_, dn_);
    ws_.add(1, dm_);
    ws_.add(most * dk_, gq_, gk_, cg_);
    ws_.add(most * dv_, gv_);
    ws_.add(most * most, g_, w_);
    ws_.add(most, direct_, dsum_, past_, carried_, di_, df_);
    ws_.allocate();
  }
  void run(Index task) {
    const bool unread = !dsT_.c.at(task) && !dsT_.n.at(task) && go_.defined();
    const common::Chunks chunks = P::chunks_of(task, unread);
    state(0).load(call_.c0, call_.n0, call_.m0, task);
    const Index count = chunks.count();
    for (Index i = 0; i < count; ++i) {
      const State<A> from = state(i), to = state(i + 1);
      std::copy(from.c, from.c + size_, to.c);
      std::copy(from.n, from.n + dk_, to.n);
      P::load(chunks[i], *from.m);
      P::advance(chunks[i], to);
    }
    State<A>{dc_, dn_, dm_}.load(dsT_.c, dsT_.n, dsT_.m, task);
    // From here on dm_ is the gradient of m where the true states stay.
    *dm_ -= call_.stabilize && !unread ? within(state(count)) : A(0);
    for (Index i = count - 1; i >= 0; --i) {
      gradients(chunks[i], state(i), i > 0 || grad_.of_states(task));
    }
    *dm_ += within(state(0));
    grad_.store_states({dc_, dn_, dm_}, size_, dk_, task);
  }

 private:
  State<A> state(Index i) const { return {c_all_ + i * size_, n_all_ + i * dk_, m_all_ + i}; }
  /// <c, dc> + <n, dn>.
  A within(const State<A>& s) const {
    return common::dot(size_, s.c, dc_) + common::dot(dk_, s.n, dn_);
  }
  /// From the incoming state s and dc, dn, dm, which become those of s where something `goes_on`.
  void gradients(const Chunk& z, const State<A>& s, bool goes_on) {
    P::load(z, *s.m);
    const A through = z.unread || z.empty ? A(0) : gates_.all * within(s);
    from_state(z);
    if (go_.defined()) {
      from_outputs(z, s);
    } else {
      std::fill(gq_, gq_ + z.c * dk_, A(0));
      std::fill(carried_, carried_ + z.c, A(0));
      std::fill(direct_, direct_ + z.c, A(0));
    }
    grad_.q.store(z.b, z.t, z.h, z.c, dk_, gq_);
    grad_.k.store(z.b, z.t, z.h, z.c, dk_, gk_);
    grad_.v.store(z.b, z.t, z.h, z.c, dv_, gv_);
    of_gates(z, through);
    if (goes_on) {
      to_state(z);
    }
  }
  /// Through what the chunk writes into the outgoing state.
  void from_state(const Chunk& z) {
    const Index c = z.c;
    if (z.unread) {
      std::fill(gk_, gk_ + c * dk_, A(0));
      std::fill(gv_, gv_ + c * dv_, A(0));
      std::fill(past_, past_ + c, A(0));
      return;
    }
    small_gemm<false, true, A>(c, dk_, dv_, A(1), v_, dv_, dc_, dv_, A(0), gk_, dk_);
    for (Index e = 0; e < c; ++e) {
      for (Index x = 0; x < dk_; ++x) {
        gk_[e * dk_ + x] = gates_.out[e] * (gk_[e * dk_ + x] + dn_[x]);
      }
      past_[e] = common::dot(dk_, k_ + e * dk_, gk_ + e * dk_);
    }
    common::scale_rows(c, dk_, A(1), gates_.out, k_, side_);
    small_gemm<false, false, A>(c, dv_, dk_, A(1), side_, dk_, dc_, dv_, A(0), gv_, dv_);
  }
  /// Through the outputs. Ends with side = scale in(Q), y the gradients of N.
  void from_outputs(const Chunk& z, const State<A>& s) {
    const Index c = z.c;
    P::score(z);
    P::read_state(c, s.n);
    go_.load(z.b, z.t, z.h, c, dv_, y_);
    small_gemm<false, true, A>(c, c, dv_, A(1), y_, dv_, v_, dv_, A(0), g_, c);
    small_gemm<false, true, A>(c, dk_, dv_, A(1), y_, dv_, s.c, dv_, A(0), cg_, dk_);
    P::divide(c);
    for (Index i = 0; i < c; ++i) {
      through_division(i, c, s.n);
    }
    common::mask(c, call_.scale, g_, gates_.between, w_);
    small_gemm<false, false, A>(c, dk_, c, A(1), w_, c, k_, dk_, A(0), gq_, dk_);
    for (Index i = 0; i < c; ++i) {
      carried_[i] = common::dot(dk_, side_ + i * dk_, cg_ + i * dk_);
      const A f = call_.scale * gates_.in[i];
      for (Index x = 0; x < dk_; ++x) {
        gq_[i * dk_ + x] += f * cg_[i * dk_ + x];
      }
    }
    small_gemm<true, false, A>(c, dk_, c, A(1), w_, c, q_, dk_, A(1), gk_, dk_);
    small_gemm<true, false, A>(c, dv_, c, A(1), p_, c, y_, dv_, A(1), gv_, dv_);
    for (Index e = 0; e < c * c; ++e) {
      w_[e] = p_[e] * g_[e];
    }
  }
  /// Row i of y, g and cg from gradients of o to those of N and d; `direct`: what m gets by eps.
  void through_division(Index i, Index c, const A* n) {
    A* __restrict y = y_ + i * dv_, * __restrict g = g_ + i * c, * __restrict cg = cg_ + i * dk_;
    const A f = A(1) / below_[i];
    A go_o = common::dot(dk_, side_ + i * dk_, cg);
    for (Index j = 0; j <= i; ++j) {
      go_o += p_[i * c + j] * g[j];
    }
    go_o *= f;
    A dsum = 0;
    direct_[i] = 0;
    if (call_.normalize) {
      direct_[i] = call_.stabilize ? -go_o * call_.eps * f : A(0);
      if (std::abs(sum_[i]) > P::floor(i)) {
        dsum = (sum_[i] > 0 ? -go_o : go_o) * f;
      }
    }
    dsum_[i] = dsum;
    for (Index x = 0; x < dv_; ++x) {
      y[x] *= f;
    }
    for (Index j = 0; j <= i; ++j) {
      g[j] = f * g[j] + dsum;
    }
    for (Index x = 0; x < dk_; ++x) {
      cg[x] = f * cg[x] + dsum * n[x];
    }
  }
  void of_gates(const Chunk& z, A through) {
    const Index c = z.c;
    const bool read = go_.defined();
    for (Index j = 0; j < c; ++j) {
      A sum = past_[j];
      for (Index i = j; read && i < c; ++i) {
        sum += w_[i * c + j];
      }
      di_[j] = sum;
    }
    common::decay_gradients(c, read ? w_ : nullptr, past_, carried_, through,
                            [&](Index e, A df) { df_[e] = df; });
    for (Index e = c - 1; e >= 0; --e) {
      *dm_ += direct_[e];
      if (!call_.stabilize) {
        continue;
      }
      if (gates_.from_input[static_cast<std::size_t>(e)]) {
        di_[e] += *dm_;
        *dm_ = 0;
      } else {
        df_[e] += *dm_;
      }
    }
    grad_.i.store(z.b, z.t, z.h, c, 1, di_);
    grad_.f.store(z.b, z.t, z.h, c, 1, df_);
  }
  /// dc and dn of the incoming state.
  void to_state(const Chunk& z) {
    const Index c = z.c;
    const A keep = z.unread ? A(0) : gates_.all;
    if (!go_.defined()) {
      for (Index e = 0; e < size_; ++e) {
        dc_[e] *= keep;
      }
      for (Index x = 0; x < dk_; ++x) {
        dn_[x] *= keep;
      }
      return;
    }
    small_gemm<true, false, A>(dk_, dv_, c, A(1), side_, dk_, y_, dv_, keep, dc_, dv_);
    for (Index x = 0; x < dk_; ++x) {
      dn_[x] *= keep;
    }
    for (Index i = 0; i < c; ++i) {
      for (Index x = 0; x < dk_; ++x) {
        dn_[x] += dsum_[i] * side_[i * dk_ + x];
      }
    }
  }

  const common::Operand<T>& go_;
  const LastGradients<T>& dsT_;
  const Gradients<T>& grad_;
  A *c_all_, *n_all_, *m_all_, *dc_, *dn_, *dm_, *gq_, *gk_, *cg_, *gv_, *g_, *w_, *direct_, *dsum_,
      *past_, *carried_, *di_, *df_;
};

template <class T>
void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& attrs) {
  const Call<T> call(in, attrs);
  common::report_scan<Op>(attrs, call.longest);
  if (common::is_recurrent(attrs, call.longest)) {
    Recurrent<T>::forward(call, out);
    return;
  }
  const common::Result<T> o(out.o);
  const LastStates<T> states(out, call);
  const Index most = common::chunk_of(attrs, call.longest);
  common::run_passes<ForwardPass<T>>(call, flops_per_token(call, most), most, o, states);
}

template <class T>
void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
              const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs& attrs) {
  const Call<T> call(in, attrs);
  if (common::is_recurrent(attrs, call.longest)) {
    Recurrent<T>::backward(call, dout, din);
    return;
  }
  const common::Operand<T> go(dout.o);
  const LastGradients<T> dsT(dout, call);
  const Gradients<T> grad(din, call);
  const Index most = common::chunk_of(attrs, call.longest);
  common::run_passes<BackwardPass<T>>(call, 3 * flops_per_token(call, most), most, go, dsT, grad);
  grad.finish();
}

LS_KERNEL(Mlstm)
    .reads("q k v o", lies::heads)
    .reads("i f", lies::anyhow)
    .strided_grad("q k v")
    .types<double, float, bf16>([]<class T>() { return std::pair(&forward<T>, &backward<T>); });

}  // namespace
}  // namespace ls::ops::mlstm
