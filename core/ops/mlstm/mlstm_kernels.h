#pragma once
// What the kernels of mlstm share. A task is one sequence and head, task = sequence * heads + head;
// its state is c [Dk,Dv], n [Dk] and m.
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
  common::FirstStates<A> c0, n0, m0;

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
        c0(in.c0, heads, size, seqs),
        n0(in.n0, heads, dk, seqs),
        m0(in.m0, heads, 1, seqs) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  bool starts_empty(Index task) const { return !c0.at(task) && !n0.at(task); }
  /// m after a token with these gates.
  A next(A m, A input, A forget) const { return stabilize ? std::max(forget + m, input) : A(0); }
};

/// The state of a task.
template <class A>
struct State {
  A *c, *n, *m;
  template <class From>
  void load(const From& c0, const From& n0, const From& m0, Index task) const {
    c0.copy(task, 1, c);
    n0.copy(task, 1, n);
    m0.copy(task, 1, m);
  }
};

/// Where the states go that sequences end in, and a thread's buffer for those that nobody wants.
template <class T>
struct LastStates {
  using A = acc_t<T>;
  LastStates(Mlstm::Out<TensorView>& out, const Call<T>& call)
      : c(out.cT, call.heads, call.size, call.seqs),
        n(out.nT, call.heads, call.dk, call.seqs),
        m(out.mT, call.heads, 1, call.seqs),
        spare(call.size + call.dk + 1) {}
  State<A> at(Index task, A* otherwise, Index size, Index dk) const {
    return {c.at(task, otherwise), n.at(task, otherwise + size), m.at(task, otherwise + size + dk)};
  }
  common::LastStates<A> c, n, m;
  Index spare;  ///< elements of that buffer
};
/// The gradients that arrive for them.
template <class T>
struct LastGradients {
  using A = acc_t<T>;
  LastGradients(const Mlstm::Out<TensorView>& dout, const Call<T>& call)
      : c(dout.cT, call.heads, call.size, call.seqs),
        n(dout.nT, call.heads, call.dk, call.seqs),
        m(dout.mT, call.heads, 1, call.seqs) {}
  common::LastGradients<A> c, n, m;
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
  common::FirstGradients<A> c0, n0, m0;
  Gradients(Mlstm::In<TensorView>& din, const Call<T>& call)
      : q(din.q),
        k(din.k),
        v(din.v),
        i(din.i),
        f(din.f),
        c0(din.c0, call.heads, call.size, call.seqs),
        n0(din.n0, call.heads, call.dk, call.seqs),
        m0(din.m0, call.heads, 1, call.seqs) {}
  bool of_states(Index task) const { return c0.at(task) || n0.at(task) || m0.at(task); }
  /// Of the state that a task starts from.
  void store_states(const State<A>& d, Index size, Index dk, Index task) const {
    const auto store = [&](const common::FirstGradients<A>& to, const A* from, Index n) {
      if (A* const at = to.at(task)) {
        std::copy(from, from + n, at);
      }
    };
    store(c0, d.c, size);
    store(n0, d.n, dk);
    store(m0, d.m, 1);
  }
  void finish() const {
    c0.finish();
    n0.finish();
    m0.finish();
  }
};

}  // namespace ls::ops::mlstm
