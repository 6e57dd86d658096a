#include "core/ops/lstm/lstm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/ops/common/activation_reference.h"
#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = Lstm;

void bind(const Op::In<Tensor>& in, const Op::Attrs&, Bindings& b) {
  const Index heads = in.r.size(0), d = in.r.size(2);
  LS_CHECK(in.r.size(1) == 4 * d && in.gx.size(2) == 4 * heads * d, kShape,
           "lstm: gates gx {} and weights r {} do not fit: expected [B,T,4*heads*d] and "
           "[heads,4*d,d]",
           in.gx.shape().str(), in.r.shape().str());
  b.set("D", heads * d);
  const Index n = common::sequence_count(in.gx.size(0), in.offsets);
  LS_CHECK((!in.h0.defined() || in.h0.size(0) == n) && (!in.c0.defined() || in.c0.size(0) == n),
           kShape, "lstm: h0 and c0 do not have the {} rows of the sequences", n);
  if (!b.has("N")) {
    b.set("N", n);
  }
}

/// Sequence by sequence, token by token.
template <class Real>
struct Reference {
  using Vector = std::vector<Real>;
  enum Gate { kInput, kForget, kCell, kOutput };

  struct Sizes {
    explicit Sizes(const Op::In<Tensor>& in)
        : heads(in.r.size(0)), d(in.r.size(2)), width(heads * d), tokens(in.gx.size(1)) {}
    Index heads, d, width, tokens;
    /// Of unit x = head * d + u: where its gate lies among the 4 * width of a token.
    std::size_t gate(Index which, Index x) const {
      return static_cast<std::size_t>(which * width + x);
    }
    /// The weight from unit `from` of the same head, 0 .. d-1, to a gate of unit x.
    std::size_t weight(Index which, Index x, Index from) const {
      return static_cast<std::size_t>((x / d * 4 * d + which * d + x % d) * d + from);
    }
    /// That unit among all.
    std::size_t source(Index x, Index from) const {
      return static_cast<std::size_t>(x / d * d + from);
    }
  };
  /// Row n of a state, zeros where it is absent.
  static Vector row(const Tensor& t, std::size_t n, Index width) {
    return t.defined() ? t.select(0, static_cast<Index>(n)).to_vector<Real>()
                       : Vector(static_cast<std::size_t>(width));
  }
  static void set_row(Tensor& t, std::size_t n, const Vector& v) {
    if (t.defined()) {
      std::copy(v.begin(), v.end(), t.data<Real>() + n * v.size());
    }
  }
  static std::vector<common::Sequence> sequences(const Op::In<Tensor>& in) {
    return common::sequences(in.gx.size(0), in.gx.size(1), in.offsets, "lstm");
  }

  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs&) {
    const Sizes z(in);
    const Vector gx = in.gx.to_vector<Real>(), r = in.r.to_vector<Real>();
    const std::vector<common::Sequence> seqs = sequences(in);
    for (std::size_t n = 0; n < seqs.size(); ++n) {
      Vector h = row(in.h0, n, z.width), c = row(in.c0, n, z.width);
      for (Index i = 0; i < seqs[n].length; ++i) {
        const Index token = seqs[n].row * z.tokens + seqs[n].begin + i;
        Real* gates = out.gates.data<Real>() + token * 4 * z.width;
        Vector next_h = h;
        for (Index x = 0; x < z.width; ++x) {
          for (const Gate which : {kInput, kForget, kCell, kOutput}) {
            const std::size_t g = z.gate(which, x);
            Real pre = gx[static_cast<std::size_t>(token * 4 * z.width) + g];
            pre += in.bias.defined() ? static_cast<Real>(in.bias.at(static_cast<Index>(g))) : 0;
            for (Index from = 0; from < z.d; ++from) {
              pre += r[z.weight(which, x, from)] * h[z.source(x, from)];
            }
            gates[g] = which == kCell ? std::tanh(pre) : act::reference_sigmoid(pre);
          }
          Real& cell = c[static_cast<std::size_t>(x)];
          cell =
              gates[z.gate(kForget, x)] * cell + gates[z.gate(kInput, x)] * gates[z.gate(kCell, x)];
          next_h[static_cast<std::size_t>(x)] = gates[z.gate(kOutput, x)] * std::tanh(cell);
          out.cells.data<Real>()[token * z.width + x] = cell;
          out.y.data<Real>()[token * z.width + x] = next_h[static_cast<std::size_t>(x)];
        }
        h = next_h;
      }
      set_row(out.hT, n, h);
      set_row(out.cT, n, c);
    }
  }

  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>& out,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs&) {
    const Sizes z(in);
    const Vector r = in.r.to_vector<Real>();
    const Vector dy = dout.y.defined() ? dout.y.to_vector<Real>() : Vector();
    const std::vector<common::Sequence> seqs = sequences(in);
    for (Tensor* d : {&din.r, &din.bias}) {
      if (d->defined()) {
        d->zero_();
      }
    }
    for (std::size_t n = 0; n < seqs.size(); ++n) {
      Vector dh = row(dout.hT, n, z.width), dc = row(dout.cT, n, z.width);
      for (Index i = seqs[n].length - 1; i >= 0; --i) {
        const Index token = seqs[n].row * z.tokens + seqs[n].begin + i;
        const Real* gates = out.gates.data<Real>() + token * 4 * z.width;
        const Real* cells = out.cells.data<Real>() + token * z.width;
        Vector before_h = row(in.h0, n, z.width), before_c = row(in.c0, n, z.width);
        for (Index x = 0; i > 0 && x < z.width; ++x) {
          const Real cell = (cells - z.width)[x];
          before_c[static_cast<std::size_t>(x)] = cell;
          before_h[static_cast<std::size_t>(x)] =
              (gates - 4 * z.width)[z.gate(kOutput, x)] * std::tanh(cell);
        }
        Vector before_dh(dh.size()), before_dc(dc.size());
        for (Index x = 0; x < z.width; ++x) {
          const auto u = static_cast<std::size_t>(x);
          const Real gi = gates[z.gate(kInput, x)], gf = gates[z.gate(kForget, x)],
                     gc = gates[z.gate(kCell, x)], go = gates[z.gate(kOutput, x)];
          const Real tanh_c = std::tanh(cells[x]);
          const Real dhidden =
              dh[u] + (dy.empty() ? 0 : dy[static_cast<std::size_t>(token * z.width + x)]);
          const Real dcell = dc[u] + dhidden * go * (1 - tanh_c * tanh_c);
          before_dc[u] = dcell * gf;
          for (const Gate which : {kInput, kForget, kCell, kOutput}) {
            const Real dpre = which == kInput    ? dcell * gc * gi * (1 - gi)
                              : which == kForget ? dcell * before_c[u] * gf * (1 - gf)
                              : which == kCell   ? dcell * gi * (1 - gc * gc)
                                                 : dhidden * tanh_c * go * (1 - go);
            const std::size_t g = z.gate(which, x);
            if (din.gx.defined()) {
              din.gx.data<Real>()[static_cast<std::size_t>(token * 4 * z.width) + g] = dpre;
            }
            if (din.bias.defined()) {
              din.bias.data<Real>()[g] += dpre;
            }
            for (Index from = 0; from < z.d; ++from) {
              const std::size_t w = z.weight(which, x, from), source = z.source(x, from);
              before_dh[source] += r[w] * dpre;
              if (din.r.defined()) {
                din.r.data<Real>()[w] += before_h[source] * dpre;
              }
            }
          }
        }
        dh = before_dh;
        dc = before_dc;
      }
      set_row(din.h0, n, dh);
      set_row(din.c0, n, dc);
    }
  }
};

Cost cost(const Op::In<Tensor>& in, const Op::Attrs&) {
  const auto tokens = static_cast<double>(in.gx.size(0) * in.gx.size(1));
  return {.bytes = 3.0 * static_cast<double>(in.gx.bytes()),
          .flops = 2 * tokens * static_cast<double>(in.r.numel())};
}

LS_OP(Lstm, "lstm", "LSTM with a dense or block-diagonal recurrent matrix")
    .in("gx[B,T,D4] r[E,R4,R]:acc bias[D4]:acc? h0[N,D]:acc? c0[N,D]:acc? offsets[N1]:i64?")
    .out("y[B,T,D] hT[N,D]:acc cT[N,D]:acc gates[B,T,D4]:acc cells[B,T,D]:acc")
    .saves("gx r bias h0 c0 offsets gates cells")
    .no_grad("gates cells")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
