#pragma once
// LSTM as code of blocks (core/ops/common/cell_blocks.h), any sizes.
#include "core/ops/common/cell_blocks.h"
#include "core/ops/lstm/lstm.h"

namespace ls::ops::lstm {

using common::Rows;
using cuda::Block;

template <class T>
struct Call {
  using A = acc_t<T>;
  common::CellShape<A> shape;
  Rows<const T> gx, gy;  ///< [B,T,..]: strides of rows and tokens count
  Rows<T> y, dgx;
  const A *bias = nullptr, *h0 = nullptr, *c0 = nullptr, *ghT = nullptr, *gcT = nullptr;
  A *hT = nullptr, *cT = nullptr;
  A *gates = nullptr, *cells = nullptr;        ///< written forward, read backward
  A *dpre = nullptr, *before = nullptr;        ///< [B,T,4D], [B,T,D]: h before the token
  A *dh_first = nullptr, *dc_first = nullptr;  ///< [sequences,D]
};

enum Gate { kInput, kForget, kCell, kOutput };

/// A block is a sequence and a head. Its state: h [d], c [d], pre [4d], the weights.
template <class T>
struct Forward {
  using A = acc_t<T>;
  static constexpr int kBlockThreads = common::kCellThreads;
  struct Shared {};
  static Index state_elements(const Call<T>& call) { return 6 * call.shape.d + call.shape.kept(); }
  LS_ON_DEVICE static void run(const Block& block, const Call<T>& call, Shared*, A* state) {
    const common::CellShape<A>& s = call.shape;
    const common::Stretch seq = s.sequences.at[block.x];
    const Index head = block.y, first = head * s.d, width = s.width();
    const auto d = static_cast<int>(s.d);
    A *const h = state, *const c = h + d, *const pre = c + d;
    const A* const weights = common::keep_weights(block, s, s.rt, head, pre + 4 * d);
    block.each(d, [&](int u) {
      const Index at = seq.start * width + first + u;
      h[u] = call.h0 && seq.start >= 0 ? call.h0[at] : A(0);
      c[u] = call.c0 && seq.start >= 0 ? call.c0[at] : A(0);
    });
    for (Index e = 0; e < seq.length; ++e) {
      const Index t = seq.token + e, token = seq.row * s.tokens + t;
      block.sync();
      block.each(4 * d, [&](int x) {
        const Index place = s.place(head, x);
        const A in =
            convert<A>(call.gx.at(seq.row, t, 0)[place]) + (call.bias ? call.bias[place] : A(0));
        const A sum = in + common::cell_product(weights, h, s.d, s.rows(), x);
        pre[x] = x / d == kCell ? std::tanh(sum) : common::cell_sigmoid(sum);
        call.gates[token * 4 * width + place] = pre[x];
      });
      block.sync();
      block.each(d, [&](int u) {
        c[u] = pre[kForget * d + u] * c[u] + pre[kInput * d + u] * pre[kCell * d + u];
        h[u] = pre[kOutput * d + u] * std::tanh(c[u]);
        call.cells[token * width + first + u] = c[u];
        call.y.at(seq.row, t, 0)[first + u] = convert<T>(h[u]);
      });
    }
    block.sync();
    if (seq.end >= 0) {
      block.each(d, [&](int u) {
        call.hT[seq.end * width + first + u] = h[u];
        call.cT[seq.end * width + first + u] = c[u];
      });
    }
  }
};

/// The same blocks backward. State: dh [d], dc [d], dpre [4d], the weights.
template <class T>
struct Reverse {
  using A = acc_t<T>;
  static constexpr int kBlockThreads = common::kCellThreads;
  struct Shared {};
  static Index state_elements(const Call<T>& call) { return Forward<T>::state_elements(call); }
  LS_ON_DEVICE static void run(const Block& block, const Call<T>& call, Shared*, A* state) {
    const common::CellShape<A>& s = call.shape;
    const common::Stretch seq = s.sequences.at[block.x];
    const Index head = block.y, first = head * s.d, width = s.width();
    const auto d = static_cast<int>(s.d);
    A *const dh = state, *const dc = dh + d, *const dpre = dc + d;
    const A* const weights = common::keep_weights(block, s, s.r, head, dpre + 4 * d);
    block.each(d, [&](int u) {
      const Index at = seq.end * width + first + u;
      dh[u] = call.ghT && seq.end >= 0 ? call.ghT[at] : A(0);
      dc[u] = call.gcT && seq.end >= 0 ? call.gcT[at] : A(0);
    });
    for (Index e = seq.length - 1; e >= 0; --e) {
      block.sync();
      block.each(d, [&](int u) { unit(call, seq, e, head, u, dh[u], dc[u], dpre); });
      block.sync();
      block.each(d, [&](int u) {
        // weights [4d,d] of the rows dpre
        dh[u] = common::cell_product(weights, dpre, s.rows(), s.d, Index{u});
      });
    }
    block.sync();
    block.each(d, [&](int u) {
      call.dh_first[block.x * width + first + u] = dh[u];
      call.dc_first[block.x * width + first + u] = dc[u];
    });
  }

 private:
  LS_ON_DEVICE static void unit(const Call<T>& call, const common::Stretch& seq, Index e,
                                Index head, int u, A dh, A& dc, A* dpre) {
    const common::CellShape<A>& s = call.shape;
    const Index t = seq.token + e, token = seq.row * s.tokens + t, width = s.width();
    const Index x = head * s.d + u;
    const A* const gates = call.gates + token * 4 * width + x;
    const A i = gates[0], f = gates[width], g = gates[2 * width], o = gates[3 * width];
    const bool starts = seq.start >= 0;
    A c = call.c0 && starts ? call.c0[seq.start * width + x] : A(0);
    A h = call.h0 && starts ? call.h0[seq.start * width + x] : A(0);
    if (e > 0) {
      c = call.cells[(token - 1) * width + x];
      h = call.gates[((token - 1) * 4 + kOutput) * width + x] * std::tanh(c);
    }
    call.before[token * width + x] = h;
    const A tanh_c = std::tanh(call.cells[token * width + x]);
    const A dhidden = dh + (call.gy ? convert<A>(call.gy.at(seq.row, t, 0)[x]) : A(0));
    const A dcell = dc + dhidden * o * (1 - tanh_c * tanh_c);
    dc = dcell * f;
    const A d[4] = {dcell * g * i * (1 - i), dcell * c * f * (1 - f), dcell * i * (1 - g * g),
                    dhidden * tanh_c * o * (1 - o)};
    for (int n = 0; n < 4; ++n) {
      dpre[n * s.d + u] = d[n];
      call.dpre[token * 4 * width + n * width + x] = d[n];
      if (call.dgx) {
        call.dgx.at(seq.row, t, 0)[n * width + x] = convert<T>(d[n]);
      }
    }
  }
};

/// The walks over tokens, a block a sequence and head.
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
  using Op = Lstm;

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    Machine machine;
    Call<T> c = call_of(machine, in);
    c.y = common::rows_to<T>(out.y);
    c.hT = common::elements<A>(out.hT);
    c.cT = common::elements<A>(out.cT);
    c.gates = common::elements<A>(out.gates);
    c.cells = common::elements<A>(out.cells);
    Walks::forward(machine, c);
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    Machine machine;
    Call<T> c = call_of(machine, in);
    const common::CellShape<A>& s = c.shape;
    // Read only, here.
    c.gates = const_cast<A*>(common::elements<A>(out.gates));
    c.cells = const_cast<A*>(common::elements<A>(out.cells));
    c.gy = common::rows_in<T>(dout.y);
    c.ghT = common::elements<A>(dout.hT);
    c.gcT = common::elements<A>(dout.cT);
    c.dgx = common::rows_to<T>(din.gx);
    const Index width = s.width();
    common::take(machine, s.all() * 4 * width, c.dpre);
    common::take(machine, s.all() * width, c.before);
    common::take(machine, s.sequences.count * width, c.dh_first, c.dc_first);
    Walks::reverse(machine, c);
    if (din.r.defined()) {
      common::WeightCall<A> w{s, c.dpre, c.before, 4 * width, 0, s.rows()};
      w.dr = common::elements<A>(din.r);
      common::weight_gradients(machine, w);
    }
    if (din.bias.defined()) {
      common::sum_columns<A>(machine, c.dpre, s.all(), 4 * width, common::elements<A>(din.bias));
    }
    common::sum_starts<A>(machine, s.sequences, c.dh_first, entries_of(in.h0), width,
                          common::elements<A>(din.h0));
    common::sum_starts<A>(machine, s.sequences, c.dc_first, entries_of(in.c0), width,
                          common::elements<A>(din.c0));
  }

 private:
  static Index entries_of(const TensorView& s) { return s.defined() ? s.size(0) : 0; }
  static Call<T> call_of(Machine& machine, const Op::In<TensorView>& in) {
    Call<T> c;
    c.shape = {"lstm", in.gx, in.r, in.offsets, std::max(entries_of(in.h0), entries_of(in.c0))};
    c.gx = common::rows_in<T>(in.gx);
    c.bias = common::elements<A>(in.bias);
    c.h0 = common::elements<A>(in.h0);
    c.c0 = common::elements<A>(in.c0);
    common::make_stretches(machine, c.shape.sequences);
    return c;
  }
};

}  // namespace ls::ops::lstm
