#pragma once
// What the kernels of decayed_linear share. A task is one sequence and state head, task = sequence
// * heads + head; state [Dk,Dv] `task` of s0, sT and their gradients is its own.
#include "core/ops/common/chunks.h"
#include "core/ops/decayed_linear/decayed_linear.h"

namespace ls::ops::decayed_linear {

/// One call: extents, operands, how sequences are cut.
template <class T>
struct Call {
  using A = acc_t<T>;
  Index heads, group, dk, dv, size;
  A scale;
  ScanAttrs form;
  std::vector<common::Sequence> seqs;
  Index longest;
  common::Operand<T> q, k, v;
  common::Operand<A> g;
  std::vector<A> constant;  ///< log-decay of each head, or empty
  common::States<A> s0;

  Call(const DecayedLinear::In<Tensor>& in, const DecayedLinear::Attrs& a)
      : heads(in.k.size(2)),
        group(in.q.size(2) / heads),
        dk(in.k.size(3)),
        dv(in.v.size(3)),
        size(dk * dv),
        scale(A(a.scale)),
        form(a),
        seqs(common::sequences(in.q.size(0), in.q.size(1), in.offsets, "decayed_linear")),
        longest(common::longest(seqs)),
        q(in.q),
        k(in.k),
        v(in.v),
        g(in.g, true),
        s0(in.s0, size) {
    if (in.decay.defined()) {
      constant = in.decay.template to_vector<A>();
    }
  }
  A log_decay(Index b, Index t, Index h) const {
    if (g.defined()) {
      return *g.at(b, t, h);
    }
    return constant.empty() ? A(0) : constant[h];
  }
  void load_decays(Index b, Index t, Index h, Index c, common::Decays<A>& to) const {
    if (g.defined()) {
      to.load(c, [&](Index i) { return *g.at(b, t + i, h); });
    } else if (!constant.empty()) {
      to.load_constant(c, constant[h]);
    } else {
      to.load(c);
    }
  }
};

/// Where the gradients go; undefined ones are not wanted.
template <class T>
struct Gradients {
  common::Result<T> q, k, v;
  common::Result<acc_t<T>> g;
  acc_t<T>* s0;
  explicit Gradients(DecayedLinear::In<Tensor>& din)
      : q(din.q), k(din.k), v(din.v), g(din.g), s0(common::elements<acc_t<T>>(din.s0)) {}
};

/// Token by token (decayed_linear_recurrent_cpu.cpp); float, double, bf16.
template <class T>
struct Recurrent {
  static void forward(const Call<T>& call, DecayedLinear::Out<Tensor>& out);
  static void backward(const Call<T>& call, const DecayedLinear::Out<Tensor>& dout,
                       DecayedLinear::In<Tensor>& din);
};

}  // namespace ls::ops::decayed_linear
