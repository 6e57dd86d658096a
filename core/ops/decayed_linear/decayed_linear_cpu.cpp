// Chunks of C tokens with a carried state S [Dk,Dv]; G is the running sum of log-decays in a chunk.
//   P = tril(Q K^T) * exp(G_i - G_j),  O = scale (exp(G) Q S + P V),  S' = exp(G_C) S + (exp(G_C - G) K)^T V
// One task is one sequence and state head. The backward pass runs the chunks forward once for their
// incoming states, then backwards; every exponent is of a difference that is at most 0.
#include "core/backend/cpu/simd_math.h"
#include "core/backend/cpu/small_gemm.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/scan/sequences.h"

namespace ls {
namespace {

using Op = DecayedLinear;
constexpr Index kChunk = 64;

Index chunk_of(const Op::Attrs& a, Index length) {
  switch (a.form) {
    case Form::kRecurrent: return 1;
    case Form::kParallel: return std::max<Index>(1, length);
    default: return std::min(std::max<Index>(1, length), a.chunk > 0 ? a.chunk : kChunk);
  }
}

/// Shapes and gates of a call; gates of one chunk.
template <class T>
struct Call {
  using A = acc_t<T>;
  const Op::In<Tensor>& in;
  Index heads, group, dk, dv, size;
  A scale;
  std::vector<scan::Sequence> seqs;
  scan::Operand<T> q, k, v;
  scan::Operand<A> g;
  std::vector<A> constant;
  Tensor s0;
  bool decays;

  Call(const Op::In<Tensor>& i, const Op::Attrs& a)
      : in(i), heads(i.k.size(2)), group(i.q.size(2) / std::max<Index>(1, i.k.size(2))), dk(i.k.size(3)), dv(i.v.size(3)),
        size(dk * dv), scale(static_cast<A>(a.scale)),
        seqs(scan::sequences(i.q.size(0), i.q.size(1), i.offsets, "decayed_linear")), q(i.q), k(i.k), v(i.v), g(i.g, true),
        decays(i.g.defined() || i.decay.defined()) {
    if (i.decay.defined()) {
      constant = i.decay.template to_vector<A>();
    }
    if (i.s0.defined()) {
      s0 = i.s0.contiguous();
    }
  }
  Index longest() const {
    Index n = 0;
    for (const scan::Sequence& s : seqs) {
      n = std::max(n, s.length);
    }
    return n;
  }
  void first_state(Index n, Index h, A* s) const {
    if (s0.defined()) {
      const A* from = std::as_const(s0).template data<A>() + (n * heads + h) * size;
      std::copy(from, from + size, s);
    } else {
      std::fill(s, s + size, A(0));
    }
  }
  /// Running sums of log-decays over tokens t .. t+c-1.
  void gates(Index b, Index t, Index h, Index c, A* sum) const {
    A total = 0;
    for (Index i = 0; i < c; ++i) {
      total += g.defined() ? *g.at(b, t + i, h) : constant.empty() ? A(0) : constant[static_cast<std::size_t>(h)];
      sum[i] = total;
    }
  }
};

/// P *= factor * exp(G_i - G_j) on and below the diagonal, 0 above.
template <class A>
void decay_mask(A* p, const A* g, Index c, A factor, bool decays) {
  for (Index i = 0; i < c; ++i) {
    A* __restrict row = p + i * c;
    if (decays) {
      const A gi = g[i];
      for (Index j = 0; j <= i; ++j) {
        row[j] *= factor * simd::exp(gi - g[j]);
      }
    } else {
      for (Index j = 0; j <= i; ++j) {
        row[j] *= factor;
      }
    }
    std::fill(row + i + 1, row + c, A(0));
  }
}

/// to_i = from_i * exp(sign applied by the caller in e).
template <class A>
void scale_rows(const A* from, const A* e, Index c, Index d, A* to) {
  for (Index i = 0; i < c; ++i) {
    const A f = e[i];
    for (Index x = 0; x < d; ++x) {
      to[i * d + x] = f * from[i * d + x];
    }
  }
}

template <class A>
struct GateFactors {
  A *sum, *in, *out;  // G; exp(G); exp(G_C - G)
  void fill(Index c) const {
    for (Index i = 0; i < c; ++i) {
      in[i] = simd::exp(sum[i]);
      out[i] = simd::exp(sum[c - 1] - sum[i]);
    }
  }
};

/// S' = exp(G_C) S + (exp(G_C - G) K)^T V.
template <class A>
void advance(A* s, const A* k, const A* v, const GateFactors<A>& f, Index c, Index dk, Index dv, bool decays, A* kg) {
  if (decays) {
    scale_rows(k, f.out, c, dk, kg);
    small_gemm<true, false, A>(dk, dv, c, A(1), kg, dk, v, dv, f.in[c - 1], s, dv);
  } else {
    small_gemm<true, false, A>(dk, dv, c, A(1), k, dk, v, dv, A(1), s, dv);
  }
}

template <class T>
void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& attrs) {
  using A = acc_t<T>;
  const Call<T> call(in, attrs);
  const scan::Result<T> o(out.o);
  A* const states = out.sT.data<A>();
  const Index heads = call.heads, dk = call.dk, dv = call.dv, longest = chunk_of(attrs, call.longest());
  parallel_for(static_cast<Index>(call.seqs.size()) * heads, 1, [&](Index first, Index last) {
    scan::Scratch<A> scratch(longest * (3 * dk + 2 * dv + longest + 3));
    A *q = scratch.take(longest * dk), *k = scratch.take(longest * dk), *kg = scratch.take(longest * dk);
    A *v = scratch.take(longest * dv), *y = scratch.take(longest * dv), *p = scratch.take(longest * longest);
    const GateFactors<A> f{scratch.take(longest), scratch.take(longest), scratch.take(longest)};
    for (Index task = first; task < last; ++task) {
      const Index n = task / heads, h = task % heads;
      const scan::Sequence& seq = call.seqs[static_cast<std::size_t>(n)];
      A* s = states + task * call.size;
      call.first_state(n, h, s);
      const Index chunk = chunk_of(attrs, seq.length);
      for (Index i = 0; i < seq.length; i += chunk) {
        const Index c = std::min(chunk, seq.length - i), t = seq.begin + i;
        call.gates(seq.row, t, h, c, f.sum);
        f.fill(c);
        call.k.load(seq.row, t, h, c, dk, k);
        call.v.load(seq.row, t, h, c, dv, v);
        for (Index j = h * call.group; j < (h + 1) * call.group; ++j) {
          call.q.load(seq.row, t, j, c, dk, q);
          small_gemm<false, true, A>(c, c, dk, A(1), q, dk, k, dk, A(0), p, c);
          decay_mask(p, f.sum, c, call.scale, call.decays);
          if (call.decays) {
            scale_rows(q, f.in, c, dk, q);
          }
          small_gemm<false, false, A>(c, dv, dk, call.scale, q, dk, s, dv, A(0), y, dv);
          small_gemm<false, false, A>(c, dv, c, A(1), p, c, v, dv, A(1), y, dv);
          o.store(seq.row, t, j, c, dv, y);
        }
        advance(s, k, v, f, c, dk, dv, call.decays, kg);
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
  const scan::Result<T> dq(din.q), dkey(din.k), dval(din.v);
  const scan::Result<A> dg(din.g);
  const Tensor dsT = dout.sT.defined() ? dout.sT.contiguous() : Tensor();
  const Index heads = call.heads, dk = call.dk, dv = call.dv, size = call.size, longest = chunk_of(attrs, call.longest());
  const Index most_chunks = (call.longest() + longest - 1) / std::max<Index>(1, longest) + 1;
  parallel_for(static_cast<Index>(call.seqs.size()) * heads, 1, [&](Index first, Index last) {
    scan::Scratch<A> scratch(longest * (6 * dk + 4 * dv + 2 * longest + 4) + (most_chunks + 2) * size);
    A *q = scratch.take(longest * dk), *k = scratch.take(longest * dk), *kg = scratch.take(longest * dk);
    A *gq = scratch.take(longest * dk), *gk = scratch.take(longest * dk), *qg = scratch.take(longest * dk);
    A *v = scratch.take(longest * dv), *gv = scratch.take(longest * dv), *y = scratch.take(longest * dv);
    scratch.take(longest * dv);
    A *p = scratch.take(longest * longest), *gp = scratch.take(longest * longest);
    const GateFactors<A> f{scratch.take(longest), scratch.take(longest), scratch.take(longest)};
    A* gg = scratch.take(longest);
    A *ds = scratch.take(size), *starts = scratch.take((most_chunks + 1) * size);
    for (Index task = first; task < last; ++task) {
      const Index n = task / heads, h = task % heads;
      const scan::Sequence& seq = call.seqs[static_cast<std::size_t>(n)];
      const Index chunk = chunk_of(attrs, seq.length), chunks = (seq.length + chunk - 1) / chunk;
      call.first_state(n, h, starts);
      for (Index m = 0; m < chunks; ++m) {
        const Index i = m * chunk, c = std::min(chunk, seq.length - i), t = seq.begin + i;
        A* next = starts + (m + 1) * size;
        std::copy(starts + m * size, starts + (m + 1) * size, next);
        call.gates(seq.row, t, h, c, f.sum);
        f.fill(c);
        call.k.load(seq.row, t, h, c, dk, k);
        call.v.load(seq.row, t, h, c, dv, v);
        advance(next, k, v, f, c, dk, dv, call.decays, kg);
      }
      if (dsT.defined()) {
        const A* from = dsT.data<A>() + task * size;
        std::copy(from, from + size, ds);
      } else {
        std::fill(ds, ds + size, A(0));
      }
      for (Index m = chunks - 1; m >= 0; --m) {
        const Index i = m * chunk, c = std::min(chunk, seq.length - i), t = seq.begin + i;
        const A* s = starts + m * size;
        const A* after = s + size;
        call.gates(seq.row, t, h, c, f.sum);
        f.fill(c);
        call.k.load(seq.row, t, h, c, dk, k);
        call.v.load(seq.row, t, h, c, dv, v);
        scale_rows(k, f.out, c, dk, kg);
        A through = 0;  // <S', dS'>: all of S' scales with exp(G_C)
        for (Index x = 0; x < size; ++x) {
          through += after[x] * ds[x];
        }
        std::fill(gg, gg + c, A(0));
        // What the chunk writes into S'.
        small_gemm<false, true, A>(c, dk, dv, A(1), v, dv, ds, dv, A(0), gk, dk);
        scale_rows(gk, f.out, c, dk, gk);
        small_gemm<false, false, A>(c, dv, dk, A(1), kg, dk, ds, dv, A(0), gv, dv);
        for (Index x = 0; x < size; ++x) {
          ds[x] *= f.in[c - 1];
        }
        for (Index j = h * call.group; go.defined() && j < (h + 1) * call.group; ++j) {
          call.q.load(seq.row, t, j, c, dk, q);
          go.load(seq.row, t, j, c, dv, y);
          small_gemm<false, true, A>(c, c, dk, A(1), q, dk, k, dk, A(0), p, c);
          decay_mask(p, f.sum, c, call.scale, call.decays);
          small_gemm<false, true, A>(c, c, dv, A(1), y, dv, v, dv, A(0), gp, c);
          decay_mask(gp, f.sum, c, call.scale, call.decays);
          small_gemm<false, true, A>(c, dk, dv, call.scale, y, dv, s, dv, A(0), gq, dk);
          scale_rows(gq, f.in, c, dk, gq);
          small_gemm<false, false, A>(c, dk, c, A(1), gp, c, k, dk, A(1), gq, dk);
          small_gemm<true, false, A>(c, dk, c, A(1), gp, c, q, dk, A(1), gk, dk);
          small_gemm<true, false, A>(c, dv, c, A(1), p, c, y, dv, A(1), gv, dv);
          scale_rows(q, f.in, c, dk, qg);
          small_gemm<true, false, A>(dk, dv, c, call.scale, qg, dk, y, dv, A(1), ds, dv);
          if (dq.defined()) {
            dq.store(seq.row, t, j, c, dk, gq);
          }
          for (Index r = 0; r < c; ++r) {
            A dot = 0;
            for (Index x = 0; x < dk; ++x) {
              dot += q[r * dk + x] * gq[r * dk + x];
            }
            gg[r] += dot;
          }
        }
        if (!go.defined() && dq.defined()) {
          std::fill(gq, gq + c * dk, A(0));
          for (Index j = h * call.group; j < (h + 1) * call.group; ++j) {
            dq.store(seq.row, t, j, c, dk, gq);
          }
        }
        if (dkey.defined()) {
          dkey.store(seq.row, t, h, c, dk, gk);
        }
        if (dval.defined()) {
          dval.store(seq.row, t, h, c, dv, gv);
        }
        if (dg.defined()) {
          A sum = through;
          for (Index r = c - 1; r >= 0; --r) {
            A dot = 0;
            for (Index x = 0; x < dk; ++x) {
              dot += k[r * dk + x] * gk[r * dk + x];
            }
            sum += gg[r] - dot;
            *dg.at(seq.row, t + r, h) = sum;
          }
        }
      }
      if (din.s0.defined()) {
        std::copy(ds, ds + size, din.s0.data<A>() + task * size);
      }
    }
  });
}

LS_KERNEL(DecayedLinear)
    .forward<double>(&forward<double>)
    .backward<double>(&backward<double>)
    .forward<float>(&forward<float>)
    .backward<float>(&backward<float>)
    .forward<bf16>(&forward<bf16>)
    .backward<bf16>(&backward<bf16>);

}  // namespace
}  // namespace ls
