#pragma once
// GRU as code of blocks (core/ops/common/cell_blocks.h), any sizes.
#include "core/ops/common/cell_blocks.h"
#include "core/ops/gru/gru.h"

namespace ls::ops::gru {

using common::Rows;
using cuda::Block;

template <class T>
struct Call {
  using A = acc_t<T>;
  common::CellShape<A> shape;
  bool before = false;   ///< reset before the product
  Rows<const T> gx, gy;  ///< [B,T,..]: strides of rows and tokens count
  Rows<T> y, dgx;
  const A *bias = nullptr, *bias_n = nullptr, *h0 = nullptr, *ghT = nullptr;
  A* hT = nullptr;
  A *gates = nullptr, *hidden = nullptr, *inner = nullptr;  ///< written forward, read backward
  A* dpre = nullptr;      ///< [B,T,3D]: gradients of what the gates' functions take
  A* dproduct = nullptr;  ///< [B,T,D]: of the candidate's product, reset after
  A* last = nullptr;      ///< [B,T,D]: h before the token
  A* dh_first = nullptr;  ///< [sequences,D]
};

enum Gate { kReset, kKeep, kNew };

/// What the walks share: a block is a sequence and a head.
template <class T>
class Walk {
 public:
  using A = acc_t<T>;
  static constexpr int kBlockThreads = common::kCellThreads;
  struct Shared {};
  /// Four vectors of d, three of gates, the weights.
  static Index state_elements(const Call<T>& call) { return 7 * call.shape.d + call.shape.kept(); }

 protected:
  LS_ON_DEVICE Walk(const Block& block, const Call<T>& call, A* state)
      : block_(block),
        call_(call),
        s_(call.shape),
        seq_(s_.sequences.at[block.x]),
        head_(block.y),
        first_(head_ * s_.d),
        width_(s_.width()),
        d_(static_cast<int>(s_.d)),
        state_(state) {}
  LS_ON_DEVICE Index token(Index e) const { return seq_.row * s_.tokens + seq_.token + e; }
  LS_ON_DEVICE A incoming(int u) const {
    return call_.h0 && seq_.start >= 0 ? call_.h0[seq_.start * width_ + first_ + u] : A(0);
  }

  const Block& block_;
  const Call<T>& call_;
  const common::CellShape<A>& s_;
  const common::Stretch seq_;
  const Index head_, first_, width_;
  const int d_;
  A* const state_;
};

template <class T>
class Forward : public Walk<T> {
  using Base = Walk<T>;
  using Base::block_, Base::call_, Base::s_, Base::seq_, Base::head_, Base::first_, Base::width_,
      Base::d_, Base::state_;

 public:
  using A = acc_t<T>;
  LS_ON_DEVICE static void run(const Block& block, const Call<T>& call, typename Base::Shared*,
                               A* state) {
    Forward(block, call, state).all();
  }

 private:
  LS_ON_DEVICE Forward(const Block& block, const Call<T>& call, A* state)
      : Base(block, call, state) {}

  LS_ON_DEVICE void all() {
    A *const h = state_, *const pre = h + d_, *const reset = pre + 3 * d_;
    const A* const weights = common::keep_weights(block_, s_, s_.rt, head_, h + 7 * d_);
    block_.each(d_, [&](int u) { h[u] = this->incoming(u); });
    for (Index e = 0; e < seq_.length; ++e) {
      const Index token = this->token(e);
      block_.sync();
      block_.each((call_.before ? 2 : 3) * d_, [&](int x) {
        const A product = common::cell_product(weights, h, s_.d, s_.rows(), Index{x});
        if (x / d_ == kNew) {
          pre[x] = product + (call_.bias_n ? call_.bias_n[first_ + x % d_] : A(0));
          return;
        }
        pre[x] = common::cell_sigmoid(input(e, x) + product);
        call_.gates[token * 3 * width_ + s_.place(head_, x)] = pre[x];
        if (x / d_ == kReset) {
          reset[x] = pre[x] * h[x];
        }
      });
      block_.sync();
      // h is read by all before it changes.
      block_.each(d_, [&](int u) { candidate(e, u, weights, pre, reset); });
      block_.sync();
      block_.each(d_, [&](int u) { update(e, u, h, pre); });
    }
    block_.sync();
    if (seq_.end >= 0) {
      block_.each(d_, [&](int u) { call_.hT[seq_.end * width_ + first_ + u] = h[u]; });
    }
  }
  LS_ON_DEVICE A input(Index e, Index x) const {
    const Index place = s_.place(head_, x);
    return convert<A>(call_.gx.at(seq_.row, seq_.token + e, 0)[place]) +
           (call_.bias ? call_.bias[place] : A(0));
  }
  /// pre of the candidate becomes it.
  LS_ON_DEVICE void candidate(Index e, int u, const A* weights, A* pre, const A* reset) {
    const Index at = this->token(e) * width_ + first_ + u, x = kNew * s_.d + u;
    const A inner = call_.before ? reset[u] : pre[x];
    const A product = call_.before ? common::cell_product(weights, reset, s_.d, s_.rows(), x)
                                   : pre[kReset * d_ + u] * inner;
    call_.inner[at] = inner;
    pre[x] = std::tanh(input(e, x) + product);
    call_.gates[this->token(e) * 3 * width_ + s_.place(head_, x)] = pre[x];
  }
  LS_ON_DEVICE void update(Index e, int u, A* h, const A* pre) {
    const A keep = pre[kKeep * d_ + u];
    h[u] = keep * h[u] + (1 - keep) * pre[kNew * d_ + u];
    call_.hidden[this->token(e) * width_ + first_ + u] = h[u];
    call_.y.at(seq_.row, seq_.token + e, 0)[first_ + u] = convert<T>(h[u]);
  }
};

/// Backward. State: dh [d], dpre [3d], dreset [d], dbefore [d], the weights.
template <class T>
class Reverse : public Walk<T> {
  using Base = Walk<T>;
  using Base::block_, Base::call_, Base::s_, Base::seq_, Base::head_, Base::first_, Base::width_,
      Base::d_, Base::state_;

 public:
  using A = acc_t<T>;
  LS_ON_DEVICE static void run(const Block& block, const Call<T>& call, typename Base::Shared*,
                               A* state) {
    Reverse(block, call, state).all();
  }

 private:
  LS_ON_DEVICE Reverse(const Block& block, const Call<T>& call, A* state)
      : Base(block, call, state),
        dh_(state),
        dpre_(state + d_),
        dbefore_(state + 4 * d_),
        weights_(common::keep_weights(block, s_, s_.r, head_, state + 7 * d_)) {}

  LS_ON_DEVICE void all() {
    block_.each(d_, [&](int u) {
      dh_[u] = call_.ghT && seq_.end >= 0 ? call_.ghT[seq_.end * width_ + first_ + u] : A(0);
    });
    for (Index e = seq_.length - 1; e >= 0; --e) {
      block_.sync();
      block_.each(d_, [&](int u) { output(e, u); });
      block_.sync();
      block_.each(d_, [&](int u) { reset(e, u); });
      block_.sync();
      // Of the rows of products that read h: all three, or but the candidate's.
      const Index rows = (call_.before ? 2 : 3) * s_.d;
      block_.each(d_, [&](int u) {
        dh_[u] = dbefore_[u] + common::cell_product(weights_, dpre_, rows, s_.d, Index{u});
      });
    }
    block_.sync();
    block_.each(d_, [&](int u) { call_.dh_first[block_.x * width_ + first_ + u] = dh_[u]; });
  }
  LS_ON_DEVICE A gate(Index e, Gate which, int u) const {
    return call_.gates[this->token(e) * 3 * width_ + which * width_ + first_ + u];
  }
  LS_ON_DEVICE A last(Index e, int u) const {
    return e > 0 ? call_.hidden[(this->token(e) - 1) * width_ + first_ + u] : this->incoming(u);
  }
  LS_ON_DEVICE void store(Index e, Gate which, int u, A d) {
    const Index x = which * width_ + first_ + u;
    call_.dpre[this->token(e) * 3 * width_ + x] = d;
    if (call_.dgx) {
      call_.dgx.at(seq_.row, seq_.token + e, 0)[x] = convert<T>(d);
    }
  }
  /// Through the new hidden vector and the candidate: dpre of the product with h, or with r h.
  LS_ON_DEVICE void output(Index e, int u) {
    const Index t = seq_.token + e, at = this->token(e) * width_ + first_ + u;
    const A r = gate(e, kReset, u), z = gate(e, kKeep, u), n = gate(e, kNew, u), h = last(e, u);
    const A d = dh_[u] + (call_.gy ? convert<A>(call_.gy.at(seq_.row, t, 0)[first_ + u]) : A(0));
    const A dn = d * (1 - z) * (1 - n * n), dz = d * (h - n) * z * (1 - z);
    dbefore_[u] = d * z;
    dpre_[kKeep * d_ + u] = dz;
    dpre_[kNew * d_ + u] = call_.before ? dn : dn * r;
    call_.last[at] = h;
    store(e, kKeep, u, dz);
    store(e, kNew, u, dn);
    if (!call_.before) {
      call_.dproduct[at] = dn * r;
    }
  }
  /// Through the reset gate.
  LS_ON_DEVICE void reset(Index e, int u) {
    const Index at = this->token(e) * width_ + first_ + u;
    const A r = gate(e, kReset, u);
    A dr;
    if (call_.before) {
      const A dreset = common::cell_product(weights_ + kNew * s_.d * s_.d, dpre_ + kNew * d_, s_.d,
                                            s_.d, Index{u});
      dr = dreset * last(e, u);
      dbefore_[u] += dreset * r;
    } else {
      dr = call_.dpre[this->token(e) * 3 * width_ + kNew * width_ + first_ + u] * call_.inner[at];
    }
    dpre_[kReset * d_ + u] = dr * r * (1 - r);
    store(e, kReset, u, dpre_[kReset * d_ + u]);
  }
  A *const dh_, *const dpre_, *const dbefore_;
  const A* const weights_;
};

/// The walks over the tokens, a block a sequence and head; a device may have others.
template <class T>
struct Passes {
  using A = acc_t<T>;
  template <class Machine>
  static void forward(Machine& machine, Call<T>& c) {
    const Index weights = c.shape.heads * c.shape.rows() * c.shape.d;
    common::take(machine, weights, c.shape.rt);
    machine.template launch<common::TransposeWeights<A>>(
        {common::blocks_of(weights, common::kThreads), 1, 1}, c.shape);
    machine.template launch_states<Forward<T>>({c.shape.sequences.count, c.shape.heads, 1}, c);
  }
  template <class Machine>
  static void reverse(Machine& machine, const Call<T>& c) {
    machine.template launch_states<Reverse<T>>({c.shape.sequences.count, c.shape.heads, 1}, c);
  }
};

template <class Machine, class T, class Walks = Passes<T>>
struct Blocks {
  using A = acc_t<T>;
  using Op = Gru;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out,
                      const Op::Attrs& attrs) {
    Machine machine;
    Call<T> c = call_of(machine, in, attrs);
    c.y = common::rows_to<T>(out.y);
    c.hT = common::elements<A>(out.hT);
    c.gates = common::elements<A>(out.gates);
    c.hidden = common::elements<A>(out.hidden);
    c.inner = common::elements<A>(out.inner);
    Walks::forward(machine, c);
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& attrs) {
    Machine machine;
    Call<T> c = call_of(machine, in, attrs);
    const common::CellShape<A>& s = c.shape;
    // Read only, here.
    c.gates = const_cast<A*>(common::elements<A>(out.gates));
    c.hidden = const_cast<A*>(common::elements<A>(out.hidden));
    c.inner = const_cast<A*>(common::elements<A>(out.inner));
    c.gy = common::rows_in<T>(dout.y);
    c.ghT = common::elements<A>(dout.hT);
    c.dgx = common::rows_to<T>(din.gx);
    const Index width = s.width();
    common::take(machine, s.all() * 3 * width, c.dpre);
    common::take(machine, s.all() * width, c.dproduct, c.last);
    common::take(machine, s.sequences.count * width, c.dh_first);
    Walks::reverse(machine, c);
    if (din.r.defined()) {
      weights(machine, c, common::elements<A>(din.r));
    }
    if (din.bias.defined()) {
      common::sum_columns<A>(machine, c.dpre, s.all(), 3 * width, common::elements<A>(din.bias));
    }
    if (din.bias_n.defined()) {
      common::sum_columns<A>(machine, c.dproduct, s.all(), width, common::elements<A>(din.bias_n));
    }
    common::sum_starts<A>(machine, s.sequences, c.dh_first, entries_of(in.h0), width,
                          common::elements<A>(din.h0));
  }

 private:
  static Index entries_of(const TensorView& s) { return s.defined() ? s.size(0) : 0; }
  static void weights(Machine& machine, const Call<T>& c, A* dr) {
    const common::CellShape<A>& s = c.shape;
    const Index width = s.width();
    common::WeightCall<A> gates{s, c.dpre, c.last, 3 * width, 0, 2 * s.d};
    gates.dr = dr;
    common::weight_gradients(machine, gates);
    common::WeightCall<A> candidate{s,
                                    c.before ? c.dpre + kNew * width : c.dproduct,
                                    c.before ? c.inner : c.last,
                                    c.before ? 3 * width : width,
                                    kNew * s.d,
                                    s.d};
    candidate.dr = dr;
    common::weight_gradients(machine, candidate);
  }
  static Call<T> call_of(Machine& machine, const Op::In<TensorView>& in, const Op::Attrs& attrs) {
    Call<T> c;
    c.shape = {"gru", in.gx, in.r, in.offsets, entries_of(in.h0)};
    c.before = attrs.reset == Reset::kBefore;
    c.gx = common::rows_in<T>(in.gx);
    c.bias = common::elements<A>(in.bias);
    c.bias_n = common::elements<A>(in.bias_n);
    c.h0 = common::elements<A>(in.h0);
    common::make_stretches(machine, c.shape.sequences);
    return c;
  }
};

}  // namespace ls::ops::gru
