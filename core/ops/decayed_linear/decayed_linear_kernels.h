#pragma once
// What the kernels of decayed_linear share.
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
  Tensor s0;

  Call(const DecayedLinear::In<Tensor>& in, const DecayedLinear::Attrs& a)
      : heads(in.k.size(2)),
        group(in.q.size(2) / std::max<Index>(1, heads)),
        dk(in.k.size(3)),
        dv(in.v.size(3)),
        size(dk * dv),
        scale(static_cast<A>(a.scale)),
        form(a),
        seqs(common::sequences(in.q.size(0), in.q.size(1), in.offsets, "decayed_linear")),
        longest(common::longest(seqs)),
        q(in.q),
        k(in.k),
        v(in.v),
        g(in.g, true),
        s0(in.s0.defined() ? in.s0.contiguous() : Tensor()) {
    if (in.decay.defined()) {
      constant = in.decay.template to_vector<A>();
    }
  }
  /// The given state of (sequence, head), or null: zero.
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
  A log_decay(Index b, Index t, Index h) const {
    return g.defined()        ? *g.at(b, t, h)
           : constant.empty() ? A(0)
                              : constant[static_cast<std::size_t>(h)];
  }
  void load_decays(Index b, Index t, Index h, Index c, common::Decays<A>& to) const {
    if (g.defined()) {
      to.load(c, [&](Index i) { return *g.at(b, t + i, h); });
    } else if (!constant.empty()) {
      to.load_constant(c, constant[static_cast<std::size_t>(h)]);
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
      : q(din.q),
        k(din.k),
        v(din.v),
        g(din.g),
        s0(din.s0.defined() ? din.s0.template data<acc_t<T>>() : nullptr) {}
};

/// Token by token (decayed_linear_recurrent_cpu.cpp); float, double, bf16.
template <class T>
void recurrent_forward(const Call<T>& call, DecayedLinear::Out<Tensor>& out);
template <class T>
void recurrent_backward(const Call<T>& call, const DecayedLinear::Out<Tensor>& dout,
                        DecayedLinear::In<Tensor>& din);

}  // namespace ls::ops::decayed_linear
