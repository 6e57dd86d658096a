// Chunks of C tokens with a carried state S [Dk,Dv], decays per key channel (gk, with g or decay in
// it) and per value channel (gv), and a bonus u with the read before the write. D^k and D^v are the
// factors of decayed_linear_side.h, 0 above the diagonal:
//   P_ij = sum_x q_ix D^k_ij,x k_jx,  P_ii = q_i (u * k_i) with a bonus; q is scaled
//   O_i  = (q_i from the start) S from the start + sum_j P_ij D^v_ij v_j
//   S'   = all^k S all^v + (K to the end)^T (V to the end)
// Keys and values play the same part: O and dV are to (P, dO, v) what dQ and dK are to (dP, q, k),
// dP_ij = sum_c dO_ic D^v_ij,c v_jc. A task is one sequence and state head, with R = group queries.
// Buffers of a thread, for chunks of at most C tokens (NOTES.md):
//   q, gq, qs, from_q  [R,C,Dk]   queries, their gradients, from the start, gradient of that
//   k, gk, ks, to_k    [C,Dk]     keys, their gradients, to the end, gradient of that
//   y, gy, ys, from_y  [R,C,Dv]   outputs or their gradients; as with q
//   v, gv, vs, to_v    [C,Dv]     values; as with k
//   p, dp [R,C,C]      row_k, row_v [C,D] gradients of log-decays      states [T/C+1,Dk,Dv]
//   ds [Dk,Dv] gradient of the state after the chunk      through_k [Dk], through_v [Dv]
//   bonus [R,C] gradients of q_i (u * k_i)
#include <numeric>
#include <utility>

#include "core/ops/decayed_linear/decayed_linear_kernels.h"
#include "core/ops/decayed_linear/decayed_linear_side.h"

namespace ls::ops::decayed_linear {
namespace {

using common::Chunk;

template <class T>
Index flops_per_token(const Call<T>& call, Index chunk) {
  constexpr Index kLevels = 15;  // operations on a channel to weigh it in all nodes of pairs
  return 2 * (call.group + 1) * call.size +
         call.group * (2 * chunk + kLevels) * (call.dk + call.dv);
}

/// What both passes do with a chunk: one thread's operands.
template <class T>
class Pass {
 protected:
  using A = acc_t<T>;
  Pass(const Call<T>& call, Index most) : call_(call) {
    const bool by_value = call.gv.defined();
    ws_.add(group_ * most * dk_, q_, qs_);
    ws_.add(most * dk_, k_, ks_);
    ws_.add(group_ * most * dv_, y_);
    ws_.add(most * dv_, v_, vs_);
    ws_.add(group_ * most * most, p_);
    // The decay of a head is that of all its key channels, or else of all its value channels.
    keys_.reserve(ws_, most, dk_, group_, call.exclusive(),
                  !call.gk.defined() && (by_value || !call.decays_heads()));
    values_.reserve(ws_, most, dv_, group_, call.exclusive(), !by_value);
  }
  common::Chunks chunks_of(Index task, bool end_unread) const {
    return {call_.form, call_.seqs[task / call_.heads], task % call_.heads, !call_.s0.at(task),
            end_unread};
  }

  void load(const Chunk& x) {
    call_.load_keys(x.b, x.t, x.h, x.c, k_);
    call_.v.load(x.b, x.t, x.h, x.c, dv_, v_);
    load_decays(x, call_.gk, dk_, true, keys_);
    load_decays(x, call_.gv, dv_, keys_.plain(), values_);
    keys_.to_end(k_, ks_);
    values_.to_end(v_, vs_);
  }
  void load_queries(const Chunk& x) {
    for (Index j = 0; j < group_; ++j) {
      call_.load_queries(x.b, x.t, x.h, j, x.c, q_ + j * x.c * dk_);
    }
    for (Index e = 0; e < group_ * x.c * dk_; ++e) {
      q_[e] *= call_.scale;
    }
  }
  /// P of all heads that read the state.
  void scores(const Chunk& x) {
    keys_.scores(q_, k_, !call_.exclusive(), p_);
    for (Index r = 0; call_.exclusive() && r < group_ * x.c; ++r) {
      const A *const u = call_.bonus_of(x.h), *const q = q_ + r * dk_,
                     *const k = k_ + r % x.c * dk_;
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (Index e = 0; e < dk_; ++e) {
        sum += q[e] * u[e] * k[e];
      }
      p_[r * x.c + r % x.c] = sum;
    }
  }
  /// s = all^k s all^v, in place.
  void decay_state(A* s) const {
    const A *of_key = keys_.all(), *of_value = values_.all();
    for (Index i = 0; i < dk_ && (of_key || of_value); ++i) {
      A* __restrict row = s + i * dv_;
      const A f = of_key ? of_key[i] : A(1);
      for (Index c = 0; c < dv_; ++c) {
        row[c] *= of_value ? f * of_value[c] : f;
      }
    }
  }
  /// S' from S, in place.
  void advance(const Chunk& x, A* s) const {
    if (!x.empty) {
      decay_state(s);
    }
    small_gemm<true, false, A>(dk_, dv_, x.c, A(1), ks_, dk_, vs_, dv_, A(x.empty ? 0 : 1), s, dv_);
  }

  const Call<T>& call_;
  const Index dk_ = call_.dk, dv_ = call_.dv, size_ = call_.size, group_ = call_.group;
  common::Workspace<A> ws_;
  Side<A> keys_, values_;
  A *q_, *qs_, *k_, *ks_, *v_, *vs_, *y_, *p_;

 private:
  void load_decays(const Chunk& x, const common::Operand<A>& g, Index d, bool with_head,
                   Side<A>& to) const {
    to.load(x.c, [&](Index i, A* __restrict row) {
      const A of_head = with_head ? call_.log_decay(x.b, x.t + i, x.h) : A(0);
      const A* __restrict from = nullptr;
      if (g.defined()) {
        g.prefetch(x.b, x.t + i + common::Operand<A>::kAhead, x.h, d);
        from = g.at(x.b, x.t + i, x.h);
      }
      for (Index e = 0; e < d; ++e) {
        row[e] = from ? of_head + from[e] : of_head;
      }
    });
  }
};

template <class T>
class ForwardPass : Pass<T> {
  using A = acc_t<T>;
  using Pass<T>::call_, Pass<T>::dk_, Pass<T>::dv_, Pass<T>::size_, Pass<T>::group_, Pass<T>::ws_;
  using Pass<T>::q_, Pass<T>::qs_, Pass<T>::v_, Pass<T>::y_, Pass<T>::p_;
  using Pass<T>::keys_, Pass<T>::values_;

 public:
  ForwardPass(const Call<T>& call, Index most, const common::Result<T>& o,
              const common::LastStates<A>& states)
      : Pass<T>(call, most), o_(o), states_(states) {
    ws_.add(call.spare(), spare_);
    ws_.allocate();
  }
  void run(Index task) {
    const common::Chunks chunks = this->chunks_of(task, false);
    A* const s = states_.at(task, spare_);
    call_.s0.copy(task, 1, s);
    for (Index z = 0; z < chunks.count(); ++z) {
      const Chunk x = chunks[z];
      this->load(x);
      this->load_queries(x);
      outputs(x, s);
      for (Index j = 0; j < group_; ++j) {
        o_.store(x.b, x.t, call_.map.out_of(x.h, j), x.c, dv_, y_ + j * x.c * dv_);
      }
      this->advance(x, s);
    }
  }

 private:
  void outputs(const Chunk& x, const A* s) {
    const Index rows = group_ * x.c;
    if (x.empty) {
      std::fill(y_, y_ + rows * dv_, A(0));
    } else {
      keys_.from_start(q_, qs_);
      small_gemm<false, false, A>(rows, dv_, dk_, A(1), qs_, dk_, s, dv_, A(0), y_, dv_);
      values_.from_start(y_, y_);
    }
    this->scores(x);
    values_.gather(p_, v_, y_);
  }

  const common::Result<T>& o_;
  const common::LastStates<A>& states_;
  A* spare_;
};

template <class T>
class BackwardPass : Pass<T> {
  using A = acc_t<T>;
  using Pass<T>::call_, Pass<T>::dk_, Pass<T>::dv_, Pass<T>::size_, Pass<T>::group_, Pass<T>::ws_;
  using Pass<T>::q_, Pass<T>::qs_, Pass<T>::k_, Pass<T>::ks_, Pass<T>::v_, Pass<T>::vs_;
  using Pass<T>::y_, Pass<T>::p_, Pass<T>::keys_, Pass<T>::values_;

 public:
  BackwardPass(const Call<T>& call, Index most, const common::Operand<T>& go,
               const common::LastGradients<A>& dsT, const Gradients<T>& grad)
      : Pass<T>(call, most), go_(go), dsT_(dsT), grad_(grad) {
    ws_.add((common::pieces(call.longest, most) + 1) * size_, states_);
    ws_.add(size_, ds_);
    ws_.add(group_ * most * dk_, gq_, from_q_);
    ws_.add(most * dk_, gk_, to_k_, row_k_);
    ws_.add(group_ * most * dv_, gy_, ys_, from_y_);
    ws_.add(most * dv_, gv_, to_v_, row_v_);
    ws_.add(group_ * most * most, dp_);
    ws_.add(dk_, through_k_);
    ws_.add(dv_, through_v_);
    ws_.add(group_ * most, bonus_);
    ws_.allocate();
  }
  void run(Index task) {
    const common::Chunks chunks = this->chunks_of(task, !dsT_.at(task) && go_.defined());
    call_.s0.copy(task, 1, states_);
    for (Index z = 0; z + 1 < chunks.count(); ++z) {
      A* const next = states_ + (z + 1) * size_;
      std::copy(next - size_, next, next);
      this->load(chunks[z]);
      this->advance(chunks[z], next);
    }
    dsT_.copy(task, 1, ds_);
    for (Index z = chunks.count() - 1; z >= 0; --z) {
      gradients(chunks[z], task, states_ + z * size_);
    }
    if (A* const to = grad_.s0.at(task)) {
      std::copy(ds_, ds_ + size_, to);
    }
  }

 private:
  /// From the incoming state s and ds, which becomes that of s.
  void gradients(const Chunk& x, Index task, const A* s) {
    this->load(x);
    this->load_queries(x);
    load_outputs(x);
    this->scores(x);
    values_.scores(y_, v_, true, dp_);
    through_state(x, s);
    from_pairs(x, task);
    store(x);
    this->decay_state(ds_);
    small_gemm<true, false, A>(dk_, dv_, group_ * x.c, A(1), qs_, dk_, ys_, dv_, A(1), ds_, dv_);
  }
  void load_outputs(const Chunk& x) {
    for (Index j = 0; j < group_; ++j) {
      A* const rows = y_ + j * x.c * dv_;
      if (go_.defined()) {
        go_.load(x.b, x.t, call_.map.out_of(x.h, j), x.c, dv_, rows);
      } else {
        std::fill(rows, rows + x.c * dv_, A(0));
      }
    }
  }
  /// What the two states, and the decay between them, bring to queries, keys, values and outputs.
  void through_state(const Chunk& x, const A* s) {
    const Index c = x.c, rows = group_ * c, dk = dk_, dv = dv_;
    keys_.from_start(q_, qs_);
    values_.from_start(y_, ys_);
    if (!x.empty) {
      small_gemm<false, true, A>(rows, dk, dv, A(1), ys_, dv, s, dv, A(0), from_q_, dk);
      if (!values_.plain()) {
        small_gemm<false, false, A>(rows, dv, dk, A(1), qs_, dk, s, dv, A(0), from_y_, dv);
      }
    }
    if (!x.unread) {
      small_gemm<false, true, A>(c, dk, dv, A(1), vs_, dv, ds_, dv, A(0), to_k_, dk);
      small_gemm<false, false, A>(c, dv, dk, A(1), ks_, dk, ds_, dv, A(0), to_v_, dv);
    }
    if (!x.empty && !x.unread) {
      between_states(s);
    }
  }
  /// Gradients of the logs of all^k and all^v.
  void between_states(const A* s) {
    const A *of_key = keys_.all(), *of_value = values_.all();
    A* __restrict by_value = through_v_;
    std::fill(by_value, by_value + dv_, A(0));
    for (Index i = 0; i < dk_; ++i) {
      const A* __restrict before = s + i * dv_;
      const A* __restrict after = ds_ + i * dv_;
      const A f = of_key ? of_key[i] : A(1);
      A sum = 0;
      if (!of_value) {
        through_k_[i] = f * common::dot(dv_, before, after);
        continue;
      }
#pragma omp simd reduction(+ : sum)
      for (Index e = 0; e < dv_; ++e) {
        const A both = f * of_value[e] * before[e] * after[e];
        sum += both;
        by_value[e] += both;
      }
      through_k_[i] = sum;
    }
  }
  /// Gradients of queries, keys, values and decays from those of the pairs and of the states.
  void from_pairs(const Chunk& x, Index task) {
    const Index c = x.c, rows = group_ * c;
    std::fill(gq_, gq_ + rows * dk_, A(0));
    std::fill(gk_, gk_ + c * dk_, A(0));
    std::fill(gv_, gv_ + c * dv_, A(0));
    std::fill(row_k_, row_k_ + c * dk_, A(0));
    std::fill(row_v_, row_v_ + c * dv_, A(0));
    std::fill(gy_, gy_ + (values_.plain() ? 0 : rows * dv_), A(0));
    const A *const to_k = x.unread ? nullptr : to_k_, *const to_v = x.unread ? nullptr : to_v_;
    const bool through = !x.empty && !x.unread;
    values_.gradients(p_, y_, v_,
                      {.qs = ys_,
                       .dqs = x.empty ? nullptr : from_y_,
                       .ks = vs_,
                       .dks = to_v,
                       .through = through ? through_v_ : nullptr},
                      values_.plain() ? nullptr : gy_, gv_, row_v_);
    for (Index r = 0; call_.exclusive() && r < rows; ++r) {
      bonus_[r] = std::exchange(dp_[r * c + r % c], A(0));  // the diagonal is the bonus's
    }
    keys_.gradients(dp_, q_, k_,
                    {.qs = qs_,
                     .dqs = x.empty ? nullptr : from_q_,
                     .ks = ks_,
                     .dks = to_k,
                     .through = through ? through_k_ : nullptr},
                    gq_, gk_, row_k_);
    if (call_.exclusive()) {
      of_bonus(x, grad_.bonus(task));
    }
  }
  /// From the gradients of q_i (u * k_i).
  void of_bonus(const Chunk& x, A* gu) {
    const A* __restrict u = call_.bonus_of(x.h);
    for (Index r = 0; r < group_ * x.c; ++r) {
      const A f = bonus_[r];
      const A *const query = q_ + r * dk_, *const key = k_ + r % x.c * dk_;
      A *const to_q = gq_ + r * dk_, *const to_k = gk_ + r % x.c * dk_;
      for (Index e = 0; e < dk_; ++e) {
        to_q[e] += f * u[e] * key[e];
        to_k[e] += f * u[e] * query[e];
        if (gu) {
          gu[e] += f * query[e] * key[e];
        }
      }
    }
  }
  void store(const Chunk& x) {
    for (Index e = 0; e < group_ * x.c * dk_; ++e) {
      gq_[e] *= call_.scale;
    }
    for (Index j = 0; j < group_; ++j) {
      grad_.store_q(x.b, x.t, x.h, j, x.c, call_, gq_ + j * x.c * dk_);
    }
    grad_.store_k(x.b, x.t, x.h, x.c, call_, gk_);
    grad_.v.store(x.b, x.t, x.h, x.c, dv_, gv_);
    grad_.gk.store(x.b, x.t, x.h, x.c, dk_, row_k_);
    grad_.gv.store(x.b, x.t, x.h, x.c, dv_, row_v_);
    const bool by_key = !keys_.plain();
    for (Index i = 0; grad_.g.defined() && i < x.c; ++i) {
      const Index d = by_key ? dk_ : dv_;
      const A* const row = (by_key ? row_k_ : row_v_) + i * d;
      *grad_.g.at(x.b, x.t + i, x.h) = std::accumulate(row, row + d, A(0));
    }
  }

  const common::Operand<T>& go_;
  const common::LastGradients<A>& dsT_;
  const Gradients<T>& grad_;
  A *states_, *ds_, *gq_, *from_q_, *gk_, *to_k_, *row_k_, *gy_, *ys_, *from_y_, *gv_, *to_v_,
      *row_v_, *dp_, *through_k_, *through_v_, *bonus_;
};

}  // namespace

template <class T>
void ByChannel<T>::forward(const Call<T>& call, DecayedLinear::Out<TensorView>& out) {
  const common::Result<T> o(out.o);
  const common::LastStates<acc_t<T>> states(out.sT, call.heads, call.size, call.seqs);
  const Index most = common::chunk_of(call.form, call.longest);
  common::run_passes<ForwardPass<T>>(call, flops_per_token(call, most), most, o, states);
}

template <class T>
void ByChannel<T>::backward(const Call<T>& call, const DecayedLinear::Out<TensorView>& dout,
                            DecayedLinear::In<TensorView>& din) {
  const common::Operand<T> go(dout.o);
  const common::LastGradients<acc_t<T>> dsT(dout.sT, call.heads, call.size, call.seqs);
  Gradients<T> grad(din, call);
  const Index most = common::chunk_of(call.form, call.longest);
  run_backward<BackwardPass<T>>(call, 3 * flops_per_token(call, most), most, go, dsT, grad);
  grad.finish();
}

template struct ByChannel<double>;
template struct ByChannel<float>;
template struct ByChannel<bf16>;

}  // namespace ls::ops::decayed_linear
