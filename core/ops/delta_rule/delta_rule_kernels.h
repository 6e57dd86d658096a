#pragma once
// What the kernels of delta_rule share. A task is one sequence and key head, task = sequence *
// heads + head, with its `group` value heads: their states [group,Dk,Dv] of s0, sT and the
// gradients lie next to one another, from state task * group on.
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
  common::Operand<T> q, k, v, beta, beta_v;
  common::Operand<A> g;
  common::States<A> s0;

  Call(const DeltaRule::In<Tensor>& in, const DeltaRule::Attrs& a)
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
        beta(in.beta, true),
        beta_v(in.beta_v),
        g(in.g, true),
        s0(in.s0, size) {}

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
  /// to = beta of token t times from, per value channel.
  void times_beta(Index b, Index t, Index hv, const A* __restrict from, A* __restrict to) const {
    if (beta.defined()) {
      const A f = convert<A>(*beta.at(b, t, hv));
      for (Index y = 0; y < dv; ++y) {
        to[y] = f * from[y];
      }
    } else {
      const T* __restrict f = beta_v.at(b, t, hv);
      for (Index y = 0; y < dv; ++y) {
        to[y] = convert<A>(f[y]) * from[y];
      }
    }
  }
};

/// Where the gradients go; undefined ones are not wanted.
template <class T>
struct Gradients {
  common::Result<T> q, k, v, beta, beta_v;
  common::Result<acc_t<T>> g;
  acc_t<T>* s0;
  explicit Gradients(DeltaRule::In<Tensor>& din)
      : q(din.q),
        k(din.k),
        v(din.v),
        beta(din.beta),
        beta_v(din.beta_v),
        g(din.g),
        s0(common::elements<acc_t<T>>(din.s0)) {}

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
    } else if (beta_v.defined()) {
      T* to = beta_v.at(b, t, hv);
      for (Index y = 0; y < dv; ++y) {
        to[y] = convert<T>(dw[y] * x[y]);
      }
    }
  }
};

/// Token by token (delta_rule_recurrent_cpu.cpp); float, double, bf16.
template <class T>
struct Recurrent {
  static void forward(const Call<T>& call, DeltaRule::Out<Tensor>& out);
  static void backward(const Call<T>& call, const DeltaRule::Out<Tensor>& dout,
                       DeltaRule::In<Tensor>& din);
};

}  // namespace ls::ops::delta_rule
