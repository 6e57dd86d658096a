#pragma once
// What the kernels of mlstm share. A task is one sequence and head, task = sequence * heads + head;
// its state is a number of rows of s0, sT and the gradients: c [Dk,Dv], n [Dk], m.
#include "core/ops/common/chunks.h"
#include "core/ops/mlstm/mlstm.h"

namespace ls::ops::mlstm {

/// One call: extents, operands, how sequences are cut.
template <class T>
struct Call {
  using A = acc_t<T>;
  Index heads, dk, dv, size;
  A scale, eps;
  bool stabilize, normalize;
  ScanAttrs form;
  std::vector<common::Sequence> seqs;
  Index longest;
  common::Operand<T> q, k, v;
  common::Operand<A> i, f;
  common::States<A> c0, n0, m0;

  Call(const Mlstm::In<TensorView>& in, const Mlstm::Attrs& a)
      : heads(in.k.size(2)),
        dk(in.k.size(3)),
        dv(in.v.size(3)),
        size(dk * dv),
        scale(A(a.scale)),
        eps(A(a.eps)),
        stabilize(a.stabilize),
        normalize(a.normalize),
        form(a),
        seqs(common::sequences(in.q.size(0), in.q.size(1), in.offsets, "mlstm")),
        longest(common::longest(seqs)),
        q(in.q),
        k(in.k),
        v(in.v),
        i(in.i),
        f(in.f),
        c0(in.c0, size),
        n0(in.n0, dk),
        m0(in.m0, 1) {}
  bool starts_empty() const { return !c0.defined() && !n0.defined(); }
  /// m after a token with these gates.
  A next(A m, A input, A forget) const { return stabilize ? std::max(forget + m, input) : A(0); }
};

/// The state of a task; `c`, `n` may be null: zero.
template <class A>
struct State {
  A *c, *n, *m;
  void load(const common::States<A>& c0, const common::States<A>& n0, const common::States<A>& m0,
            Index task) const {
    c0.copy(task, 1, c);
    n0.copy(task, 1, n);
    m0.copy(task, 1, m);
  }
};

/// Token by token (mlstm_recurrent_cpu.cpp); float, double, bf16.
template <class T>
struct Recurrent {
  static void forward(const Call<T>& call, Mlstm::Out<TensorView>& out);
  static void backward(const Call<T>& call, const Mlstm::Out<TensorView>& dout,
                       Mlstm::In<TensorView>& din);
};

/// Where the gradients go; undefined ones are not wanted.
template <class T>
struct Gradients {
  using A = acc_t<T>;
  common::Result<T> q, k, v;
  common::Result<A> i, f;
  A *c0, *n0, *m0;
  explicit Gradients(Mlstm::In<TensorView>& din)
      : q(din.q),
        k(din.k),
        v(din.v),
        i(din.i),
        f(din.f),
        c0(common::elements<A>(din.c0)),
        n0(common::elements<A>(din.n0)),
        m0(common::elements<A>(din.m0)) {}
};

}  // namespace ls::ops::mlstm
