#pragma once
// What the kernels of delta_rule share.
#include "core/ops/common/chunks.h"
#include "core/ops/delta_rule/delta_rule.h"

namespace ls::ops::delta_rule {

inline constexpr double kNormEps = 1e-6;

/// One call: extents, operands, how sequences are cut.
template <class T>
struct Call {
  using A = acc_t<T>;
  Index heads, group, value_heads, dk, dv, size;
  A scale;
  bool normalise, decays;
  ScanAttrs form;
  std::vector<common::Sequence> seqs;
  Index longest;
  common::Operand<T> q, k, v, beta, beta_v;
  common::Operand<A> g;
  Tensor s0;

  Call(const DeltaRule::In<Tensor>& in, const DeltaRule::Attrs& a)
      : heads(in.k.size(2)),
        group(in.v.size(2) / std::max<Index>(1, heads)),
        value_heads(in.v.size(2)),
        dk(in.k.size(3)),
        dv(in.v.size(3)),
        size(dk * dv),
        scale(static_cast<A>(a.scale)),
        normalise(a.qk_l2norm),
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
        s0(in.s0.defined() ? in.s0.contiguous() : Tensor()) {}

  /// The given state of (sequence, value head), or null: zero.
  const A* first_state(Index state) const {
    return s0.defined() ? std::as_const(s0).template data<A>() + state * size : nullptr;
  }
  void copy_first_state(Index state, A* to) const {
    if (const A* from = first_state(state)) {
      std::copy(from, from + size, to);
    } else {
      std::fill(to, to + size, A(0));
    }
  }
  /// Rows of q or k, normalised when asked; `factor` gets what they were multiplied by.
  void load_keys(const common::Operand<T>& from, Index b, Index t, Index h, Index c, A* to,
                 A* factor) const {
    from.load(b, t, h, c, dk, to);
    for (Index i = 0; i < c && normalise; ++i) {
      A* __restrict row = to + i * dk;
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (Index x = 0; x < dk; ++x) {
        sum += row[x] * row[x];
      }
      const A f = A(1) / std::sqrt(sum + static_cast<A>(kNormEps));
      factor[i] = f;
      for (Index x = 0; x < dk; ++x) {
        row[x] *= f;
      }
    }
  }
  /// Gradients of rows that load_keys gave, made those of its input.
  void through_norm(Index c, const A* unit, const A* factor, A* d) const {
    for (Index i = 0; i < c && normalise; ++i) {
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
        s0(din.s0.defined() ? din.s0.template data<acc_t<T>>() : nullptr) {}

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
void recurrent_forward(const Call<T>& call, DeltaRule::Out<Tensor>& out);
template <class T>
void recurrent_backward(const Call<T>& call, const DeltaRule::Out<Tensor>& dout,
                        DeltaRule::In<Tensor>& din);

}  // namespace ls::ops::delta_rule
