// Chunks of C tokens with a carried state S [Dk,Dv]; G is the running sum of log-decays in a chunk
// and D_ij = exp(G_i - G_j). What token i writes, W_i = beta_i * X_i, follows from the writes
// before it:
//   X_i = v_i - exp(G_i) k_i S - sum_{j<i} M_ij W_j,   M = tril_{-1}(K K^T * D)
// a unit-lower-triangular system, solved by blocks of 16 rows: products for what lies before a
// block, substitution inside it. No inverse is formed, and beta may differ between value channels.
// Then
//   O = scale (exp(G) Q S + P W),  P = tril(Q K^T * D),   S' = exp(G_C) S + (exp(G_C - G) K)^T W.
// Backward: a pass forward keeps X, W, M and the incoming state of each chunk; a pass backward
// solves the same system transposed for dX. The rows of K act once as readers (in M and in
// exp(G) K S) and once as writers; dG = q.dq + k.dk_read - k.dk_write, + <S', dS'> at the last row.
// Queries and keys, and their gradients, lie one after the other, so that one product serves both.
// One task is one sequence and key head with its value heads.
#include "core/backend/cpu/small_gemm.h"
#include "core/ops/delta_rule/delta_rule_kernels.h"

namespace ls::ops::delta_rule {
namespace {

using Op = DeltaRule;
constexpr Index kBlock = 16;

/// x (right-hand sides on entry) and w = beta * x from (I + M diag(beta)) x = rhs.
template <class T, class A = acc_t<T>>
void solve(const Call<T>& call, Index b, Index t, Index hv, Index c, const A* m, A* x, A* w) {
  const Index dv = call.dv;
  for (Index begin = 0; begin < c; begin += kBlock) {
    const Index end = std::min(c, begin + kBlock);
    if (begin > 0) {
      small_gemm<false, false, A>(end - begin, dv, begin, A(-1), m + begin * c, c, w, dv, A(1),
                                  x + begin * dv, dv);
    }
    for (Index i = begin; i < end; ++i) {
      A* __restrict xi = x + i * dv;
      for (Index j = begin; j < i; ++j) {
        const A f = m[i * c + j];
        const A* __restrict wj = w + j * dv;
        for (Index y = 0; y < dv; ++y) {
          xi[y] -= f * wj[y];
        }
      }
      call.times_beta(b, t + i, hv, xi, w + i * dv);
    }
  }
}

/// dx from dw (which ends as the gradient of w = beta * x): the transposed system.
template <class T, class A = acc_t<T>>
void solve_transposed(const Call<T>& call, Index b, Index t, Index hv, Index c, const A* m, A* dw,
                      A* dx) {
  const Index dv = call.dv;
  for (Index begin = (c - 1) / kBlock * kBlock; begin >= 0; begin -= kBlock) {
    const Index end = std::min(c, begin + kBlock);
    if (end < c) {
      small_gemm<true, false, A>(end - begin, dv, c - end, A(-1), m + end * c + begin, c,
                                 dx + end * dv, dv, A(1), dw + begin * dv, dv);
    }
    for (Index i = end - 1; i >= begin; --i) {
      call.times_beta(b, t + i, hv, dw + i * dv, dx + i * dv);
      const A* __restrict dxi = dx + i * dv;
      for (Index j = begin; j < i; ++j) {
        const A f = m[i * c + j];
        A* __restrict dwj = dw + j * dv;
        for (Index y = 0; y < dv; ++y) {
          dwj[y] -= f * dxi[y];
        }
      }
    }
  }
}

/// x = v - read; no read is zero.
template <class T, class A = acc_t<T>>
void missing(const Call<T>& call, Index b, Index t, Index hv, Index c, const A* read, A* x) {
  for (Index i = 0; i < c; ++i) {
    const T* __restrict v = call.v.at(b, t + i, hv);
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

Index flops_per_token(Index dk, Index dv, Index chunk) {
  return 6 * dk * dv + 3 * chunk * (dk + dv);
}

template <class T>
void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& attrs) {
  using A = acc_t<T>;
  const Call<T> call(in, attrs);
  common::report_scan<Op>(attrs, call.longest);
  if (common::is_recurrent(attrs, call.longest)) {
    recurrent_forward(call, out);
    return;
  }
  const common::Result<T> o(out.o);
  A* const states = out.sT.data<A>();
  const Index dk = call.dk, dv = call.dv, most = common::chunk_of(attrs, call.longest);
  common::for_tasks(
      call.seqs, call.heads, call.group * flops_per_token(dk, dv, most),
      [&](Index first, Index last) {
        common::Workspace<A> ws;
        common::Decays<A> d;
        A *qk, *side, *read, *x, *w, *scores, *m, *factor;
        ws.add(qk, 2 * most * dk);
        ws.add(side, 2 * most * dk);
        ws.add(read, 2 * most * dv);
        ws.add(x, most * dv);
        ws.add(w, most * dv);
        ws.add(scores, 2 * most * most);
        ws.add(m, most * most);
        ws.add(factor, most);
        d.reserve(ws, most);
        ws.allocate();
        for (Index task = first; task < last; ++task) {
          const Index n = task / call.heads, h = task % call.heads;
          const common::Sequence& seq = call.seqs[static_cast<std::size_t>(n)];
          const Index first_head = n * call.value_heads + h * call.group, b = seq.row;
          for (Index r = 0; r < call.group; ++r) {
            call.copy_first_state(first_head + r, states + (first_head + r) * call.size);
          }
          const Index chunk = common::chunk_of(attrs, seq.length);
          for (Index i = 0; i < seq.length; i += chunk) {
            const Index c = std::min(chunk, seq.length - i), t = seq.begin + i;
            A *q = qk, *k = qk + c * dk;
            call.load_keys(call.q, b, t, h, c, q, factor);
            call.load_keys(call.k, b, t, h, c, k, factor);
            small_gemm<false, true, A>(2 * c, c, dk, A(1), qk, dk, k, dk, A(0), scores, c);
            for (Index r = 0; r < call.group; ++r) {
              const Index hv = h * call.group + r;
              A* s = states + (first_head + r) * call.size;
              const bool empty = i == 0 && !call.first_state(first_head + r);
              call.load_decays(b, t, hv, c, d);
              if (!empty) {
                common::scale_rows(c, dk, call.scale, d.in, q, side);
                common::scale_rows(c, dk, A(1), d.in, k, side + c * dk);
                small_gemm<false, false, A>(2 * c, dv, dk, A(1), side, dk, s, dv, A(0), read, dv);
              }
              missing(call, b, t, hv, c, empty ? nullptr : read + c * dv, x);
              common::mask_strictly(c, A(1), scores + c * c, d.between, m);
              solve(call, b, t, hv, c, m, x, w);
              common::mask(c, call.scale, scores, d.between, m);
              small_gemm<false, false, A>(c, dv, c, A(1), m, c, w, dv, empty ? A(0) : A(1), read,
                                          dv);
              o.store(b, t, hv, c, dv, read);
              const A* writers = k;
              if (!d.trivial) {
                common::scale_rows(c, dk, A(1), d.out, k, side);
                writers = side;
              }
              small_gemm<true, false, A>(dk, dv, c, A(1), writers, dk, w, dv, d.all, s, dv);
            }
          }
        }
      });
}

template <class T>
void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&, const Op::Out<Tensor>& dout,
              Op::In<Tensor>& din, const Op::Attrs& attrs) {
  using A = acc_t<T>;
  const Call<T> call(in, attrs);
  if (common::is_recurrent(attrs, call.longest)) {
    recurrent_backward(call, dout, din);
    return;
  }
  const common::Operand<T> go(dout.o);
  const Gradients<T> grad(din);
  const Tensor dsT = dout.sT.defined() ? dout.sT.contiguous() : Tensor();
  const Index dk = call.dk, dv = call.dv, size = call.size, group = call.group;
  const Index length = call.longest, most = common::chunk_of(attrs, length),
              chunks_most = (length + most - 1) / most;
  common::for_tasks(
      call.seqs, call.heads, 3 * group * flops_per_token(dk, dv, most),
      [&](Index first, Index last) {
        common::Workspace<A> ws;
        common::Decays<A> d;
        // What the pass forward keeps, per value head: incoming states and the outgoing one;
        // X, W; M.
        A *states, *x_all, *w_all, *m_all;
        ws.add(states, group * (chunks_most + 1) * size);
        ws.add(x_all, group * length * dv);
        ws.add(w_all, group * length * dv);
        ws.add(m_all, group * length * most);
        A *ds_all, *qk, *dqk, *hqk, *side, *write, *yx, *dw, *scores, *p, *dscores, *nq, *nk,
            *dgate;
        ws.add(ds_all, group * size);
        ws.add(qk, 2 * most * dk);
        ws.add(dqk, 2 * most * dk);
        ws.add(hqk, 2 * most * dk);
        ws.add(side, 2 * most * dk);
        ws.add(write, most * dk);
        ws.add(yx, 2 * most * dv);
        ws.add(dw, most * dv);
        ws.add(scores, most * most);
        ws.add(p, most * most);
        ws.add(dscores, 2 * most * most);
        for (A** row : {&nq, &nk, &dgate}) {
          ws.add(*row, most);
        }
        d.reserve(ws, most);
        ws.allocate();
        for (Index task = first; task < last; ++task) {
          const Index n = task / call.heads, h = task % call.heads;
          const common::Sequence& seq = call.seqs[static_cast<std::size_t>(n)];
          const Index b = seq.row, first_head = n * call.value_heads + h * group;
          const Index chunk = common::chunk_of(attrs, seq.length),
                      chunks = (seq.length + chunk - 1) / chunk;
          const auto state = [&](Index r, Index z) {
            return states + (r * (chunks_most + 1) + z) * size;
          };
          // Most sequences begin with a state of zeros and end with one that nothing reads: half
          // of the work of a sequence of one chunk.
          const auto empty = [&](Index r, Index z) {
            return z == 0 && !call.first_state(first_head + r);
          };
          const auto unused = [&](Index z) { return z == chunks - 1 && !dsT.defined(); };
          for (Index r = 0; r < group; ++r) {
            call.copy_first_state(first_head + r, state(r, 0));
            A* ds = ds_all + r * size;
            if (dsT.defined()) {
              const A* from = dsT.data<A>() + (first_head + r) * size;
              std::copy(from, from + size, ds);
            } else {
              std::fill(ds, ds + size, A(0));
            }
          }
          for (Index z = 0; z < chunks; ++z) {
            const Index i = z * chunk, c = std::min(chunk, seq.length - i), t = seq.begin + i;
            A* k = qk;
            call.load_keys(call.k, b, t, h, c, k, nk);
            small_gemm<false, true, A>(c, c, dk, A(1), k, dk, k, dk, A(0), scores, c);
            for (Index r = 0; r < group; ++r) {
              const Index hv = h * group + r;
              const A* s = empty(r, z) ? nullptr : state(r, z);
              A *next = state(r, z + 1), *x = x_all + (r * length + i) * dv,
                *w = w_all + (r * length + i) * dv;
              A* m = m_all + (r * length + i) * most;
              call.load_decays(b, t, hv, c, d);
              if (s) {
                common::scale_rows(c, dk, A(1), d.in, k, side);
                small_gemm<false, false, A>(c, dv, dk, A(1), side, dk, s, dv, A(0), yx, dv);
              }
              missing(call, b, t, hv, c, s ? yx : nullptr, x);
              common::mask_strictly(c, A(1), scores, d.between, m);
              solve(call, b, t, hv, c, m, x, w);
              if (unused(z)) {
                continue;
              }
              common::scale_rows(c, dk, A(1), d.out, k, side);
              if (s) {
                std::copy(s, s + size, next);
              }
              small_gemm<true, false, A>(dk, dv, c, A(1), side, dk, w, dv, s ? d.all : A(0), next,
                                         dv);
            }
          }
          for (Index z = chunks - 1; z >= 0; --z) {
            const Index i = z * chunk, c = std::min(chunk, seq.length - i), t = seq.begin + i;
            A *q = qk, *k = qk + c * dk;
            call.load_keys(call.q, b, t, h, c, q, nq);
            call.load_keys(call.k, b, t, h, c, k, nk);
            small_gemm<false, true, A>(c, c, dk, A(1), q, dk, k, dk, A(0), scores, c);
            for (Index r = 0; r < group; ++r) {
              const Index hv = h * group + r;
              const A *s = empty(r, z) ? nullptr : state(r, z), *after = state(r, z + 1);
              const bool last = unused(z);
              const A *x = x_all + (r * length + i) * dv, *w = w_all + (r * length + i) * dv;
              const A* m = m_all + (r * length + i) * most;
              A *ds = ds_all + r * size, *y = yx, *dx = yx + c * dv;
              call.load_decays(b, t, hv, c, d);
              A through = 0;  // all of S' scales with exp(G_C)
              if (!d.trivial && grad.g.defined() && !last) {
#pragma omp simd reduction(+ : through)
                for (Index e = 0; e < size; ++e) {
                  through += after[e] * ds[e];
                }
              }
              // Into W: from the outgoing state and from the outputs.
              if (!last) {
                common::scale_rows(c, dk, A(1), d.out, k, side);
                small_gemm<false, false, A>(c, dv, dk, A(1), side, dk, ds, dv, A(0), dw, dv);
                small_gemm<false, true, A>(c, dk, dv, A(1), w, dv, ds, dv, A(0), write, dk);
                common::scale_rows(c, dk, A(1), d.out, write);
              }
              if (go.defined()) {
                go.load(b, t, hv, c, dv, y);
                common::mask(c, call.scale, scores, d.between, p);
                small_gemm<true, false, A>(c, dv, c, A(1), p, c, y, dv, last ? A(0) : A(1), dw, dv);
              } else {
                std::fill(y, y + c * dv, A(0));
              }
              solve_transposed(call, b, t, hv, c, m, dw, dx);
              // Into the two score matrices, and from there and from S into the readers.
              small_gemm<false, true, A>(2 * c, c, dv, A(1), yx, dv, w, dv, A(0), dscores, c);
              common::mask(c, call.scale, dscores, d.between, dscores);
              common::mask_strictly(c, A(-1), dscores + c * c, d.between, dscores + c * c);
              if (s) {
                small_gemm<false, true, A>(2 * c, dk, dv, A(1), yx, dv, s, dv, A(0), hqk, dk);
                common::scale_rows(c, dk, call.scale, d.in, hqk);
                common::scale_rows(c, dk, A(-1), d.in, hqk + c * dk);
              }
              small_gemm<false, false, A>(2 * c, dk, c, A(1), dscores, c, k, dk, s ? A(1) : A(0),
                                          hqk, dk);
              small_gemm<true, false, A>(c, dk, 2 * c, A(1), dscores, c, qk, dk, last ? A(0) : A(1),
                                         write, dk);
              if (z > 0 || grad.s0) {
                common::scale_rows(c, dk, call.scale, d.in, q, side);
                common::scale_rows(c, dk, A(-1), d.in, k, side + c * dk);
                small_gemm<true, false, A>(dk, dv, 2 * c, A(1), side, dk, yx, dv, d.all, ds, dv);
              }
              for (Index e = 0; e < c; ++e) {
                const A* __restrict qe = q + e * dk;
                const A* __restrict ke = k + e * dk;
                const A* __restrict hq = hqk + e * dk;
                const A* __restrict hk = hqk + (c + e) * dk;
                const A* __restrict we = write + e * dk;
                A* __restrict gq = dqk + e * dk;
                A* __restrict gk = dqk + (c + e) * dk;
                A dot = 0;
                if (r == 0) {
#pragma omp simd reduction(+ : dot)
                  for (Index u = 0; u < dk; ++u) {
                    dot += qe[u] * hq[u] + ke[u] * (hk[u] - we[u]);
                    gq[u] = hq[u];
                    gk[u] = hk[u] + we[u];
                  }
                } else {
#pragma omp simd reduction(+ : dot)
                  for (Index u = 0; u < dk; ++u) {
                    dot += qe[u] * hq[u] + ke[u] * (hk[u] - we[u]);
                    gq[u] += hq[u];
                    gk[u] += hk[u] + we[u];
                  }
                }
                dgate[e] = dot;
                grad.store_beta(b, t + e, hv, dv, dw + e * dv, x + e * dv);
              }
              if (grad.v.defined()) {
                grad.v.store(b, t, hv, c, dv, dx);
              }
              if (grad.g.defined()) {
                A sum = through;
                for (Index e = c - 1; e >= 0; --e) {
                  sum += dgate[e];
                  *grad.g.at(b, t + e, hv) = sum;
                }
              }
            }
            if (grad.q.defined()) {
              call.through_norm(c, q, nq, dqk);
              grad.q.store(b, t, h, c, dk, dqk);
            }
            if (grad.k.defined()) {
              call.through_norm(c, k, nk, dqk + c * dk);
              grad.k.store(b, t, h, c, dk, dqk + c * dk);
            }
          }
          if (grad.s0) {
            std::copy(ds_all, ds_all + group * size, grad.s0 + first_head * size);
          }
        }
      });
}

LS_KERNEL(DeltaRule).types<double, float, bf16>([]<class T>() {
  return std::pair(&forward<T>, &backward<T>);
});

}  // namespace
}  // namespace ls::ops::delta_rule
