#include "core/ops/lstm/lstm.h"

#include <array>
#include <cmath>
#include <vector>

#include "core/ops/common/activation_reference.h"
#include "core/ops/common/reference.h"
#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = Lstm;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs&, Bindings& b) {
  const Index heads = in.r.size(0), d = in.r.size(2);
  LS_CHECK(in.r.size(1) == 4 * d && in.gx.size(2) == 4 * heads * d, kShape,
           "lstm: gates gx {} and weights r {} do not fit: expected [B,T,4*heads*d] and "
           "[heads,4*d,d]",
           in.gx.shape().str(), in.r.shape().str());
  b.set("D", heads * d);
  common::bind_states("lstm", in.gx.size(0), in.offsets, in.h0, "h0");
  common::bind_states("lstm", in.gx.size(0), in.offsets, in.c0, "c0");
}

/// Sequence by sequence, token by token.
template <class Real>
struct Reference {
  enum Gate { kInput, kForget, kCell, kOutput };

  struct Call {
    Call(const Op::In<TensorView>& in, const TensorView& all_gates, const TensorView& all_cells)
        : h0(in.h0),
          c0(in.c0),
          r(in.r),
          gates(all_gates),
          cells(all_cells),
          d(r.size(2)),
          width(r.size(0) * d),
          seqs(common::sequences(in.gx.size(0), in.gx.size(1), in.offsets, "lstm")) {}
    /// Unit x = head * d + u of token t.
    Real gate(Index b, Index t, Gate which, Index x) const {
      return gates(b, t, which * width + x);
    }
    /// The states before token e of sequence n.
    struct Before {
      Buffer<Real> h, c;
    };
    Before before(Index n, Index e) const {
      const Index b = seqs[n].row, last = seqs[n].begin + e - 1, start = seqs[n].start;
      Before s{Buffer<Real>(width), Buffer<Real>(width)};
      for (Index x = 0; x < width; ++x) {
        s.c(x) = e > 0 ? cells(b, last, x) : common::state_or_zero(c0, start, x);
        s.h(x) = e > 0 ? gate(b, last, kOutput, x) * std::tanh(s.c(x))
                       : common::state_or_zero(h0, start, x);
      }
      return s;
    }
    View<const Real, 2> h0, c0;
    View<const Real, 3> r, gates, cells;
    Index d, width;
    std::vector<common::Sequence> seqs;
  };

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const Call call(in, out.gates, out.cells);
    const View<const Real, 3> gx(in.gx);
    const View<const Real, 1> bias(in.bias);
    const View<Real, 3> gates(out.gates), cells(out.cells), y(out.y);
    const View<Real, 2> hT(out.hT), cT(out.cT);
    const Index d = call.d;
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length, start, end] = call.seqs[n];
      for (Index e = 0; e < length; ++e) {
        const Index t = begin + e;
        const auto [h, c] = call.before(n, e);
        for (Index x = 0; x < call.width; ++x) {
          const Index head = x / d, u = x % d;
          for (const Gate which : {kInput, kForget, kCell, kOutput}) {
            const Index at = which * call.width + x;
            Real pre = gx(b, t, at) + common::or_zero(bias, at);
            for (Index from = 0; from < d; ++from) {
              pre += call.r(head, which * d + u, from) * h(head * d + from);
            }
            gates(b, t, at) = which == kCell ? std::tanh(pre) : act::reference_sigmoid(pre);
          }
          cells(b, t, x) = call.gate(b, t, kForget, x) * c(x) +
                           call.gate(b, t, kInput, x) * call.gate(b, t, kCell, x);
          y(b, t, x) = call.gate(b, t, kOutput, x) * std::tanh(cells(b, t, x));
        }
      }
      const auto [h, c] = call.before(n, length);
      for (Index x = 0; x < call.width; ++x) {
        common::put_state(hT, h(x), end, x);
        common::put_state(cT, c(x), end, x);
      }
    }
  }

  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const Call call(in, out.gates, out.cells);
    const View<const Real, 3> gy(dout.y);
    const View<const Real, 2> ghT(dout.hT), gcT(dout.cT);
    auto grad = common::zero_gradients(in, din);
    const View<Real, 3> ggx(grad.gx), gr(grad.r);
    const View<Real, 2> gh0(grad.h0), gc0(grad.c0);
    const View<Real, 1> gbias(grad.bias);
    const Index d = call.d;
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length, start, end] = call.seqs[n];
      Buffer<Real> dh(call.width), dc(call.width);
      for (Index x = 0; x < call.width; ++x) {
        dh(x) = common::state_or_zero(ghT, end, x);
        dc(x) = common::state_or_zero(gcT, end, x);
      }
      for (Index e = length - 1; e >= 0; --e) {
        const Index t = begin + e;
        const auto [h, c] = call.before(n, e);
        Buffer<Real> before_dh(call.width);
        for (Index x = 0; x < call.width; ++x) {
          const Index head = x / d, u = x % d;
          const Real i = call.gate(b, t, kInput, x), f = call.gate(b, t, kForget, x),
                     g = call.gate(b, t, kCell, x), o = call.gate(b, t, kOutput, x);
          const Real tanh_c = std::tanh(call.cells(b, t, x));
          const Real dhidden = dh(x) + common::or_zero(gy, b, t, x);
          const Real dcell = dc(x) + dhidden * o * (1 - tanh_c * tanh_c);
          dc(x) = dcell * f;
          const std::array<Real, 4> dpre = {
              dcell * g * i * (1 - i),
              dcell * c(x) * f * (1 - f),
              dcell * i * (1 - g * g),
              dhidden * tanh_c * o * (1 - o),
          };
          for (const Gate which : {kInput, kForget, kCell, kOutput}) {
            ggx(b, t, which * call.width + x) = dpre[which];
            if (gbias) {
              gbias(which * call.width + x) += dpre[which];
            }
            for (Index from = 0; from < d; ++from) {
              before_dh(head * d + from) += call.r(head, which * d + u, from) * dpre[which];
              gr(head, which * d + u, from) += h(head * d + from) * dpre[which];
            }
          }
        }
        dh = std::move(before_dh);
      }
      for (Index x = 0; x < call.width; ++x) {
        common::add_state(gh0, dh(x), start, x);
        common::add_state(gc0, dc(x), start, x);
      }
    }
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs&) {
  const Index tokens = in.gx.size(0) * in.gx.size(1);
  return {.bytes = 3.0 * in.gx.bytes(), .flops = 2.0 * tokens * in.r.numel()};
}

LS_OP(Lstm, "lstm", "LSTM with a dense or block-diagonal recurrent matrix")
    .in("gx[B,T,D4] r[E,R4,R]:acc bias[D4]:acc? h0[N,D]:acc? c0[N,D]:acc? offsets[N1]:i64?")
    .out("y[B,T,D] hT[B,D]:acc cT[B,D]:acc gates[B,T,D4]:acc cells[B,T,D]:acc")
    .saves("gx r bias h0 c0 offsets gates cells")
    .no_grad("gates cells")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
