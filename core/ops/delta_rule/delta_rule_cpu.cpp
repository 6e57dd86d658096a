// Chunks of C tokens with a carried state S [Dk,Dv]; G is the running sum of log-decays in a chunk and
// D_ij = exp(G_i - G_j). What token i writes, W_i = beta_i * X_i, follows from the writes before it:
//   X_i = v_i - exp(G_i) k_i S - sum_{j<i} T_ij W_j,   T = tril_{-1}(K K^T * D)
// a unit-lower-triangular system, solved by blocks of 16 rows: products for what lies before a block,
// substitution inside it. No inverse is formed, and beta may differ between value channels. Then
//   O = scale (exp(G) Q S + P W),  P = tril(Q K^T * D),   S' = exp(G_C) S + (exp(G_C - G) K)^T W.
// Backward: the same system transposed gives dX from dW; the rows of K act once as readers (in T and in
// exp(G) K S) and once as writers, and dG = q.dq + k.dk_read - k.dk_write, + <S', dS'> at the last row.
// One task is one sequence and key head with its value heads; a backward task keeps one state a chunk.
#include "core/backend/cpu/simd_math.h"
#include "core/backend/cpu/small_gemm.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/scan/sequences.h"

namespace ls {
namespace {

using Op = DeltaRule;
constexpr Index kChunk = 64, kBlock = 16;
constexpr double kNormEps = 1e-6;

Index chunk_of(const Op::Attrs& a, Index length) {
  switch (a.form) {
    case Form::kRecurrent: return 1;
    case Form::kParallel: return std::max<Index>(1, length);
    default: return std::min(std::max<Index>(1, length), a.chunk > 0 ? a.chunk : kChunk);
  }
}

template <class T>
struct Call {
  using A = acc_t<T>;
  Index heads, group, value_heads, dk, dv, size;
  A scale;
  bool normalise, decays;
  std::vector<scan::Sequence> seqs;
  scan::Operand<T> q, k, v, beta, beta_v;
  scan::Operand<A> g;
  Tensor s0;

  Call(const Op::In<Tensor>& in, const Op::Attrs& a)
      : heads(in.k.size(2)), group(in.v.size(2) / std::max<Index>(1, heads)), value_heads(in.v.size(2)), dk(in.k.size(3)),
        dv(in.v.size(3)), size(dk * dv), scale(static_cast<A>(a.scale)), normalise(a.qk_l2norm), decays(in.g.defined()),
        seqs(scan::sequences(in.q.size(0), in.q.size(1), in.offsets, "delta_rule")), q(in.q), k(in.k), v(in.v),
        beta(in.beta, true), beta_v(in.beta_v), g(in.g, true), s0(in.s0.defined() ? in.s0.contiguous() : Tensor()) {}

  Index longest() const {
    Index n = 0;
    for (const scan::Sequence& s : seqs) {
      n = std::max(n, s.length);
    }
    return n;
  }
  void first_state(Index task_head, A* s) const {
    if (s0.defined()) {
      const A* from = std::as_const(s0).template data<A>() + task_head * size;
      std::copy(from, from + size, s);
    } else {
      std::fill(s, s + size, A(0));
    }
  }
  /// Rows of q or k, normalised when asked; `factor` gets what they were multiplied by.
  void load_keys(const scan::Operand<T>& from, Index b, Index t, Index h, Index c, A* to, A* factor) const {
    from.load(b, t, h, c, dk, to);
    for (Index i = 0; i < c && normalise; ++i) {
      A* __restrict row = to + i * dk;
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (Index x = 0; x < dk; ++x) {
        sum += row[x] * row[x];
      }
      factor[i] = A(1) / std::sqrt(sum + static_cast<A>(kNormEps));
      for (Index x = 0; x < dk; ++x) {
        row[x] *= factor[i];
      }
    }
  }
};

/// Gates of a chunk: G, exp(G), exp(G_C - G).
template <class A>
struct Gates {
  A *sum, *in, *out;
  template <class T>
  void load(const Call<T>& call, Index b, Index t, Index hv, Index c) const {
    A total = 0;
    for (Index i = 0; i < c; ++i) {
      total += call.decays ? *call.g.at(b, t + i, hv) : A(0);
      sum[i] = total;
    }
    for (Index i = 0; i < c; ++i) {
      in[i] = call.decays ? simd::exp(sum[i]) : A(1);
      out[i] = call.decays ? simd::exp(total - sum[i]) : A(1);
    }
  }
};

/// to = from * D where j <= i - below, else 0 (D = 1 without decay).
template <class A>
void masked(const A* from, const A* g, Index c, Index below, bool decays, A* to) {
  for (Index i = 0; i < c; ++i) {
    const Index n = i + 1 - below;
    const A* f = from + i * c;  // may be the row itself
    A* row = to + i * c;
    if (decays) {
      const A gi = g[i];
      for (Index j = 0; j < n; ++j) {
        row[j] = f[j] * simd::exp(gi - g[j]);
      }
    } else {
      std::copy(f, f + n, row);
    }
    std::fill(row + n, row + c, A(0));
  }
}

template <class A>
void scale_rows(const A* from, const A* e, Index c, Index d, A* to) {
  for (Index i = 0; i < c; ++i) {
    const A f = e[i];
    for (Index x = 0; x < d; ++x) {
      to[i * d + x] = f * from[i * d + x];
    }
  }
}

/// x (right-hand sides on entry) and w = beta * x from (I + T diag(beta)) x = rhs.
template <class A, class Beta>
void solve(const A* t, Index c, Index dv, A* x, A* w, Beta&& beta) {
  for (Index b = 0; b < c; b += kBlock) {
    const Index e = std::min(c, b + kBlock);
    if (b > 0) {
      small_gemm<false, false, A>(e - b, dv, b, A(-1), t + b * c, c, w, dv, A(1), x + b * dv, dv);
    }
    for (Index i = b; i < e; ++i) {
      A* __restrict xi = x + i * dv;
      for (Index j = b; j < i; ++j) {
        const A f = t[i * c + j];
        const A* __restrict wj = w + j * dv;
        for (Index y = 0; y < dv; ++y) {
          xi[y] -= f * wj[y];
        }
      }
      beta(i, xi, w + i * dv);
    }
  }
}

/// dx from dw (changed on the way): the transposed system.
template <class A, class Beta>
void solve_transposed(const A* t, Index c, Index dv, A* dw, A* dx, Beta&& beta) {
  for (Index b = (c - 1) / kBlock * kBlock; b >= 0; b -= kBlock) {
    const Index e = std::min(c, b + kBlock);
    if (e < c) {
      small_gemm<true, false, A>(e - b, dv, c - e, A(-1), t + e * c + b, c, dx + e * dv, dv, A(1), dw + b * dv, dv);
    }
    for (Index i = e - 1; i >= b; --i) {
      beta(i, dw + i * dv, dx + i * dv);
      const A* __restrict dxi = dx + i * dv;
      for (Index j = b; j < i; ++j) {
        const A f = t[i * c + j];
        A* __restrict dwj = dw + j * dv;
        for (Index y = 0; y < dv; ++y) {
          dwj[y] -= f * dxi[y];
        }
      }
    }
  }
}

template <class T>
struct BetaRows {
  using A = acc_t<T>;
  const Call<T>& call;
  Index b, t, hv;
  /// to = beta_i * from.
  void operator()(Index i, const A* __restrict from, A* __restrict to) const {
    if (call.beta.defined()) {
      const A f = convert<A>(*call.beta.at(b, t + i, hv));
      for (Index y = 0; y < call.dv; ++y) {
        to[y] = f * from[y];
      }
    } else {
      const T* __restrict f = call.beta_v.at(b, t + i, hv);
      for (Index y = 0; y < call.dv; ++y) {
        to[y] = convert<A>(f[y]) * from[y];
      }
    }
  }
};

template <class T>
void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& attrs) {
  using A = acc_t<T>;
  const Call<T> call(in, attrs);
  const scan::Result<T> o(out.o);
  A* const states = out.sT.data<A>();
  const Index dk = call.dk, dv = call.dv, longest = chunk_of(attrs, call.longest());
  parallel_for(static_cast<Index>(call.seqs.size()) * call.heads, 1, [&](Index first, Index last) {
    scan::Scratch<A> scratch(longest * (3 * dk + 3 * dv + 3 * longest + 4));
    A *q = scratch.take(longest * dk), *k = scratch.take(longest * dk), *side = scratch.take(longest * dk);
    A *x = scratch.take(longest * dv), *w = scratch.take(longest * dv), *y = scratch.take(longest * dv);
    A *kk = scratch.take(longest * longest), *qk = scratch.take(longest * longest), *m = scratch.take(longest * longest);
    const Gates<A> g{scratch.take(longest), scratch.take(longest), scratch.take(longest)};
    A* factor = scratch.take(longest);
    for (Index task = first; task < last; ++task) {
      const Index n = task / call.heads, h = task % call.heads;
      const scan::Sequence& seq = call.seqs[static_cast<std::size_t>(n)];
      for (Index hv = h * call.group; hv < (h + 1) * call.group; ++hv) {
        call.first_state(n * call.value_heads + hv, states + (n * call.value_heads + hv) * call.size);
      }
      const Index chunk = chunk_of(attrs, seq.length);
      for (Index i = 0; i < seq.length; i += chunk) {
        const Index c = std::min(chunk, seq.length - i), t = seq.begin + i;
        call.load_keys(call.q, seq.row, t, h, c, q, factor);
        call.load_keys(call.k, seq.row, t, h, c, k, factor);
        small_gemm<false, true, A>(c, c, dk, A(1), k, dk, k, dk, A(0), kk, c);
        small_gemm<false, true, A>(c, c, dk, A(1), q, dk, k, dk, A(0), qk, c);
        for (Index hv = h * call.group; hv < (h + 1) * call.group; ++hv) {
          A* s = states + (n * call.value_heads + hv) * call.size;
          g.load(call, seq.row, t, hv, c);
          call.v.load(seq.row, t, hv, c, dv, x);
          scale_rows(k, g.in, c, dk, side);
          small_gemm<false, false, A>(c, dv, dk, A(-1), side, dk, s, dv, A(1), x, dv);
          masked(kk, g.sum, c, 1, call.decays, m);
          solve(m, c, dv, x, w, BetaRows<T>{call, seq.row, t, hv});
          scale_rows(q, g.in, c, dk, side);
          small_gemm<false, false, A>(c, dv, dk, call.scale, side, dk, s, dv, A(0), y, dv);
          masked(qk, g.sum, c, 0, call.decays, m);
          small_gemm<false, false, A>(c, dv, c, call.scale, m, c, w, dv, A(1), y, dv);
          o.store(seq.row, t, hv, c, dv, y);
          scale_rows(k, g.out, c, dk, side);
          small_gemm<true, false, A>(dk, dv, c, A(1), side, dk, w, dv, g.in[c - 1], s, dv);
        }
      }
    }
  });
}

template <class T>
void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&, const Op::Out<Tensor>& dout, Op::In<Tensor>& din,
              const Op::Attrs& attrs) {
  using A = acc_t<T>;
  const Call<T> call(in, attrs);
  const scan::Operand<T> go(dout.o);
  const scan::Result<T> dq(din.q), dkey(din.k), dval(din.v), dbeta(din.beta), dbeta_v(din.beta_v);
  const scan::Result<A> dg(din.g);
  const Tensor dsT = dout.sT.defined() ? dout.sT.contiguous() : Tensor();
  const Index dk = call.dk, dv = call.dv, size = call.size, group = call.group;
  const Index length = call.longest(), longest = chunk_of(attrs, length), most = (length + longest - 1) / longest;
  parallel_for(static_cast<Index>(call.seqs.size()) * call.heads, 1, [&](Index first, Index last) {
    scan::Scratch<A> scratch(longest * (8 * dk + 3 * dv + 4 * longest + 6) + group * ((most + 2) * size + 2 * length * dv));
    A *q = scratch.take(longest * dk), *k = scratch.take(longest * dk), *side = scratch.take(longest * dk);
    A *gq = scratch.take(longest * dk), *gk = scratch.take(longest * dk);
    A *hq = scratch.take(longest * dk), *read = scratch.take(longest * dk), *write = scratch.take(longest * dk);
    A *y = scratch.take(longest * dv), *dw = scratch.take(longest * dv), *dx = scratch.take(longest * dv);
    A *kk = scratch.take(longest * longest), *qk = scratch.take(longest * longest);
    A *m = scratch.take(longest * longest), *dm = scratch.take(longest * longest);
    const Gates<A> g{scratch.take(longest), scratch.take(longest), scratch.take(longest)};
    A *nq = scratch.take(longest), *nk = scratch.take(longest), *dgate = scratch.take(longest);
    A *starts = scratch.take(group * (most + 1) * size), *ds_all = scratch.take(group * size);
    A *x_all = scratch.take(group * length * dv), *w_all = scratch.take(group * length * dv);
    for (Index task = first; task < last; ++task) {
      const Index n = task / call.heads, h = task % call.heads;
      const scan::Sequence& seq = call.seqs[static_cast<std::size_t>(n)];
      const Index chunk = chunk_of(attrs, seq.length), chunks = (seq.length + chunk - 1) / chunk;
      for (Index r = 0; r < group; ++r) {
        const Index head = n * call.value_heads + h * group + r;
        call.first_state(head, starts + r * (most + 1) * size);
        A* ds = ds_all + r * size;
        if (dsT.defined()) {
          std::copy(dsT.data<A>() + head * size, dsT.data<A>() + (head + 1) * size, ds);
        } else {
          std::fill(ds, ds + size, A(0));
        }
      }
      for (Index z = 0; z < chunks; ++z) {
        const Index i = z * chunk, c = std::min(chunk, seq.length - i), t = seq.begin + i;
        call.load_keys(call.k, seq.row, t, h, c, k, nk);
        small_gemm<false, true, A>(c, c, dk, A(1), k, dk, k, dk, A(0), kk, c);
        for (Index r = 0; r < group; ++r) {
          const Index hv = h * group + r;
          const A* s = starts + (r * (most + 1) + z) * size;
          A *next = starts + (r * (most + 1) + z + 1) * size, *x = x_all + (r * length + i) * dv, *w = w_all + (r * length + i) * dv;
          g.load(call, seq.row, t, hv, c);
          call.v.load(seq.row, t, hv, c, dv, x);
          scale_rows(k, g.in, c, dk, side);
          small_gemm<false, false, A>(c, dv, dk, A(-1), side, dk, s, dv, A(1), x, dv);
          masked(kk, g.sum, c, 1, call.decays, m);
          solve(m, c, dv, x, w, BetaRows<T>{call, seq.row, t, hv});
          scale_rows(k, g.out, c, dk, side);
          std::copy(s, s + size, next);
          small_gemm<true, false, A>(dk, dv, c, A(1), side, dk, w, dv, g.in[c - 1], next, dv);
        }
      }
      for (Index z = chunks - 1; z >= 0; --z) {
        const Index i = z * chunk, c = std::min(chunk, seq.length - i), t = seq.begin + i;
        call.load_keys(call.q, seq.row, t, h, c, q, nq);
        call.load_keys(call.k, seq.row, t, h, c, k, nk);
        small_gemm<false, true, A>(c, c, dk, A(1), k, dk, k, dk, A(0), kk, c);
        small_gemm<false, true, A>(c, c, dk, A(1), q, dk, k, dk, A(0), qk, c);
        std::fill(gq, gq + c * dk, A(0));
        std::fill(gk, gk + c * dk, A(0));
        for (Index r = 0; r < group; ++r) {
          const Index hv = h * group + r;
          const BetaRows<T> beta{call, seq.row, t, hv};
          const A *s = starts + (r * (most + 1) + z) * size, *after = s + size;
          const A *x = x_all + (r * length + i) * dv, *w = w_all + (r * length + i) * dv;
          A* ds = ds_all + r * size;
          g.load(call, seq.row, t, hv, c);
          A through = 0;  // all of S' scales with exp(G_C)
          for (Index e = 0; e < size && call.decays; ++e) {
            through += after[e] * ds[e];
          }
          // Into W: from the outgoing state and from the outputs.
          scale_rows(k, g.out, c, dk, side);
          small_gemm<false, false, A>(c, dv, dk, A(1), side, dk, ds, dv, A(0), dw, dv);
          small_gemm<false, true, A>(c, dk, dv, A(1), w, dv, ds, dv, A(0), write, dk);
          scale_rows(write, g.out, c, dk, write);
          for (Index e = 0; e < size; ++e) {
            ds[e] *= g.in[c - 1];
          }
          if (go.defined()) {
            go.load(seq.row, t, hv, c, dv, y);
            masked(qk, g.sum, c, 0, call.decays, m);
            small_gemm<true, false, A>(c, dv, c, call.scale, m, c, y, dv, A(1), dw, dv);
            small_gemm<false, true, A>(c, c, dv, call.scale, y, dv, w, dv, A(0), dm, c);
            masked(dm, g.sum, c, 0, call.decays, dm);
            small_gemm<false, true, A>(c, dk, dv, call.scale, y, dv, s, dv, A(0), hq, dk);
            scale_rows(hq, g.in, c, dk, hq);
            small_gemm<false, false, A>(c, dk, c, A(1), dm, c, k, dk, A(1), hq, dk);
            small_gemm<true, false, A>(c, dk, c, A(1), dm, c, q, dk, A(1), write, dk);
            scale_rows(q, g.in, c, dk, side);
            small_gemm<true, false, A>(dk, dv, c, call.scale, side, dk, y, dv, A(1), ds, dv);
          } else {
            std::fill(hq, hq + c * dk, A(0));
          }
          // Through the triangular system.
          masked(kk, g.sum, c, 1, call.decays, m);
          solve_transposed(m, c, dv, dw, dx, beta);
          small_gemm<false, true, A>(c, c, dv, A(-1), dx, dv, w, dv, A(0), dm, c);
          masked(dm, g.sum, c, 1, call.decays, dm);
          small_gemm<false, true, A>(c, dk, dv, A(-1), dx, dv, s, dv, A(0), read, dk);
          scale_rows(read, g.in, c, dk, read);
          small_gemm<false, false, A>(c, dk, c, A(1), dm, c, k, dk, A(1), read, dk);
          small_gemm<true, false, A>(c, dk, c, A(1), dm, c, k, dk, A(1), write, dk);
          scale_rows(k, g.in, c, dk, side);
          small_gemm<true, false, A>(dk, dv, c, A(-1), side, dk, dx, dv, A(1), ds, dv);
          for (Index e = 0; e < c * dk; ++e) {
            gq[e] += hq[e];
            gk[e] += read[e] + write[e];
          }
          if (dval.defined()) {
            dval.store(seq.row, t, hv, c, dv, dx);
          }
          for (Index e = 0; e < c && (dbeta.defined() || dbeta_v.defined()); ++e) {
            const A *a = dw + e * dv, *b = x + e * dv;
            if (dbeta.defined()) {
              A dot = 0;
              for (Index u = 0; u < dv; ++u) {
                dot += a[u] * b[u];
              }
              *dbeta.at(seq.row, t + e, hv) = convert<T>(dot);
            } else {
              for (Index u = 0; u < dv; ++u) {
                dbeta_v.at(seq.row, t + e, hv)[u] = convert<T>(a[u] * b[u]);
              }
            }
          }
          if (dg.defined()) {
            A sum = through;
            for (Index e = c - 1; e >= 0; --e) {
              A dot = 0;
              for (Index u = 0; u < dk; ++u) {
                dot += q[e * dk + u] * hq[e * dk + u] + k[e * dk + u] * (read[e * dk + u] - write[e * dk + u]);
              }
              sum += dot;
              dgate[e] = sum;
            }
            for (Index e = 0; e < c; ++e) {
              *dg.at(seq.row, t + e, hv) = dgate[e];
            }
          }
        }
        const auto through_norm = [&](const A* unit, const A* factor, A* d) {
          for (Index e = 0; e < c && call.normalise; ++e) {
            A dot = 0;
            for (Index u = 0; u < dk; ++u) {
              dot += unit[e * dk + u] * d[e * dk + u];
            }
            for (Index u = 0; u < dk; ++u) {
              d[e * dk + u] = factor[e] * (d[e * dk + u] - unit[e * dk + u] * dot);
            }
          }
        };
        if (dq.defined()) {
          through_norm(q, nq, gq);
          dq.store(seq.row, t, h, c, dk, gq);
        }
        if (dkey.defined()) {
          through_norm(k, nk, gk);
          dkey.store(seq.row, t, h, c, dk, gk);
        }
      }
      for (Index r = 0; r < group && din.s0.defined(); ++r) {
        std::copy(ds_all + r * size, ds_all + (r + 1) * size,
                  din.s0.data<A>() + (n * call.value_heads + h * group + r) * size);
      }
    }
  });
}

LS_KERNEL(DeltaRule)
    .forward<double>(&forward<double>)
    .backward<double>(&backward<double>)
    .forward<float>(&forward<float>)
    .backward<float>(&backward<float>)
    .forward<bf16>(&forward<bf16>)
    .backward<bf16>(&backward<bf16>);

}  // namespace
}  // namespace ls
