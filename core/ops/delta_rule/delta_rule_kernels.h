#pragma once
// What the kernels of delta_rule share. A task is one sequence and key head, task = sequence *
// heads + head, with its `group` value heads: their states [group,Dk,Dv] of s0, sT and the
// gradients lie next to one another, those of task * group first.
#include "core/backend/cpu/small_gemm.h"
#include "core/ops/common/chunks.h"
#include "core/ops/delta_rule/delta_rule.h"

namespace ls::ops::delta_rule {

/// One call: extents, operands, how sequences are cut.
template <class T>
struct Call {
  using A = acc_t<T>;
  Index heads, group, dk, dv, size;
  A scale;
  bool normalize, decays;
  ScanAttrs form;
  std::vector<common::Sequence> seqs;
  Index longest;
  common::Operand<T> q, k, v, beta, a, b;
  common::Operand<A> g, gk;
  common::FirstStates<A> s0;

  Call(const DeltaRule::In<TensorView>& in, const DeltaRule::Attrs& a)
      : heads(in.k.size(2)),
        group(in.v.size(2) / heads),
        dk(in.k.size(3)),
        dv(in.v.size(3)),
        size(dk * dv),
        scale(A(a.scale)),
        normalize(a.qk_l2norm),
        decays(in.g.defined()),
        form(a),
        seqs(common::sequences(in.q.size(0), in.q.size(1), in.offsets, "delta_rule")),
        longest(common::longest(seqs)),
        q(in.q),
        k(in.k),
        v(in.v),
        beta(in.beta),
        a(in.a),
        b(in.b),
        g(in.g),
        gk(in.gk),
        s0(in.s0, heads * group, size, seqs) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  /// Elements of a thread's buffer for states that nobody wants.
  Index spare() const { return common::spare_of(seqs, group * size); }
  /// Decays by key channel, or erase and write vectors: see Channels.
  bool by_channels() const { return gk.defined() || a.defined(); }

  /// Rows of q or k, normalised when asked; `factor` gets what they were multiplied by.
  void load_keys(const common::Operand<T>& from, Index b, Index t, Index h, Index c, A* to,
                 A* factor) const {
    from.load(b, t, h, c, dk, to);
    if (!normalize) {
      return;
    }
    for (Index i = 0; i < c; ++i) {
      A* __restrict row = to + i * dk;
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (Index x = 0; x < dk; ++x) {
        sum += row[x] * row[x];
      }
      const A f = A(1) / std::sqrt(sum + A(DeltaRule::kNormEps));
      factor[i] = f;
      for (Index x = 0; x < dk; ++x) {
        row[x] *= f;
      }
    }
  }
  /// Gradients of rows that load_keys gave, made those of its input.
  void through_norm(Index c, const A* unit, const A* factor, A* d) const {
    if (!normalize) {
      return;
    }
    for (Index i = 0; i < c; ++i) {
      const A* __restrict u = unit + i * dk;
      A* __restrict row = d + i * dk;
      A dot = 0;
#pragma omp simd reduction(+ : dot)
      for (Index x = 0; x < dk; ++x) {
        dot += u[x] * row[x];
      }
      for (Index x = 0; x < dk; ++x) {
        row[x] = factor[i] * (row[x] - u[x] * dot);
      }
    }
  }
  void load_decays(Index b, Index t, Index hv, Index c, common::Decays<A>& to) const {
    if (decays) {
      to.load(c, [&](Index i) { return *g.at(b, t + i, hv); });
    } else {
      to.load(c);
    }
  }
  /// The log-decays of token t, by key channel.
  void load_channels(Index b, Index t, Index hv, A* __restrict to) const {
    const A all = decays ? *g.at(b, t, hv) : A(0);
    if (!gk.defined()) {
      std::fill(to, to + dk, all);
      return;
    }
    const A* __restrict from = gk.at(b, t, hv);
    for (Index x = 0; x < dk; ++x) {
      to[x] = all + from[x];
    }
  }
  /// to = beta of token t times from; without beta, from.
  void times_beta(Index b, Index t, Index hv, const A* __restrict from, A* __restrict to) const {
    const A f = beta.defined() ? convert<A>(*beta.at(b, t, hv)) : A(1);
    for (Index y = 0; y < dv; ++y) {
      to[y] = f * from[y];
    }
  }
};

/// Where the gradients go; undefined ones are not wanted.
template <class T>
struct Gradients {
  common::Result<T> q, k, v, beta, a, b;
  common::Result<acc_t<T>> g, gk;
  common::FirstGradients<acc_t<T>> s0;
  Gradients(DeltaRule::In<TensorView>& din, const Call<T>& call)
      : q(din.q),
        k(din.k),
        v(din.v),
        beta(din.beta),
        a(din.a),
        b(din.b),
        g(din.g),
        gk(din.gk),
        s0(din.s0, call.heads * call.group, call.size, call.seqs) {}

  /// d beta = d w * x, where w = beta * x.
  void store_beta(Index b, Index t, Index hv, Index dv, const acc_t<T>* dw,
                  const acc_t<T>* x) const {
    if (beta.defined()) {
      acc_t<T> dot = 0;
#pragma omp simd reduction(+ : dot)
      for (Index y = 0; y < dv; ++y) {
        dot += dw[y] * x[y];
      }
      *beta.at(b, t, hv) = convert<T>(dot);
    }
  }
};

constexpr Index kBlock = 16;  // rows of the triangular systems

/// x (right-hand sides on entry) and w = beta * x from (I + M diag(beta)) x = rhs, M [c,c] strictly
/// lower triangular with rows `ld` apart.
template <class T, class A = acc_t<T>>
void solve(const Call<T>& call, const common::Chunk& z, Index hv, const A* m, Index ld, A* x,
           A* w) {
  const Index dv = call.dv, c = z.c;
  for (Index begin = 0; begin < c; begin += kBlock) {
    const Index end = std::min(c, begin + kBlock);
    if (begin > 0) {
      small_gemm<false, false, A>(end - begin, dv, begin, A(-1), m + begin * ld, ld, w, dv, A(1),
                                  x + begin * dv, dv);
    }
    for (Index i = begin; i < end; ++i) {
      A* __restrict xi = x + i * dv;
      for (Index j = begin; j < i; ++j) {
        const A f = m[i * ld + j];
        const A* __restrict wj = w + j * dv;
        for (Index y = 0; y < dv; ++y) {
          xi[y] -= f * wj[y];
        }
      }
      call.times_beta(z.b, z.t + i, hv, xi, w + i * dv);
    }
  }
}

/// dx from dw (which ends as the gradient of w = beta * x): the transposed system.
template <class T, class A = acc_t<T>>
void solve_transposed(const Call<T>& call, const common::Chunk& z, Index hv, const A* m, Index ld,
                      A* dw, A* dx) {
  const Index dv = call.dv, c = z.c;
  for (Index begin = (c - 1) / kBlock * kBlock; begin >= 0; begin -= kBlock) {
    const Index end = std::min(c, begin + kBlock);
    if (end < c) {
      small_gemm<true, false, A>(end - begin, dv, c - end, A(-1), m + end * ld + begin, ld,
                                 dx + end * dv, dv, A(1), dw + begin * dv, dv);
    }
    for (Index i = end - 1; i >= begin; --i) {
      call.times_beta(z.b, z.t + i, hv, dw + i * dv, dx + i * dv);
      const A* __restrict dxi = dx + i * dv;
      for (Index j = begin; j < i; ++j) {
        const A f = m[i * ld + j];
        A* __restrict dwj = dw + j * dv;
        for (Index y = 0; y < dv; ++y) {
          dwj[y] -= f * dxi[y];
        }
      }
    }
  }
}

/// Token by token (delta_rule_recurrent_cpu.cpp); float, double, bf16.
template <class T>
struct Recurrent {
  static void forward(const Call<T>& call, DeltaRule::Out<TensorView>& out);
  static void backward(const Call<T>& call, const DeltaRule::Out<TensorView>& dout,
                       DeltaRule::In<TensorView>& din);
};
/// In chunks, where decays or vectors are by channel (delta_rule_channels_cpu.cpp).
template <class T>
struct Channels {
  static void forward(const Call<T>& call, DeltaRule::Out<TensorView>& out);
  static void backward(const Call<T>& call, const DeltaRule::Out<TensorView>& dout,
                       DeltaRule::In<TensorView>& din);
};
/// Token by token, where decays or vectors are by channel (..._channels_recurrent_cpu.cpp).
template <class T>
struct ChannelsRecurrent {
  static void forward(const Call<T>& call, DeltaRule::Out<TensorView>& out);
  static void backward(const Call<T>& call, const DeltaRule::Out<TensorView>& dout,
                       DeltaRule::In<TensorView>& din);
};

}  // namespace ls::ops::delta_rule
