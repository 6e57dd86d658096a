#include "core/ops/gru/gru.h"

#include <cmath>
#include <vector>

#include "core/ops/common/activation_reference.h"
#include "core/ops/common/reference.h"
#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = Gru;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs& a, Bindings& b) {
  const Index heads = in.r.size(0), d = in.r.size(2);
  LS_CHECK(in.r.size(1) == 3 * d && in.gx.size(2) == 3 * heads * d, kShape,
           "gru: gates gx {} and weights r {} do not fit: expected [B,T,3*heads*d] and "
           "[heads,3*d,d]",
           in.gx.shape().str(), in.r.shape().str());
  LS_CHECK(a.reset == Reset::kAfter || !in.bias_n.defined(), kShape,
           "gru: bias_n is inside the product that a reset gate after it multiplies; with reset "
           "before, add it to bias");
  b.set("D", heads * d);
  common::bind_states("gru", in.gx.size(0), in.offsets, in.h0, "h0");
}

/// Sequence by sequence, token by token.
template <class Real>
struct Reference {
  enum Gate { kReset, kKeep, kNew };

  struct Call {
    Call(const Op::In<TensorView>& in, const Op::Out<TensorView>& out, const Op::Attrs& a)
        : before(a.reset == Reset::kBefore),
          h0(in.h0),
          r(in.r),
          gates(out.gates),
          hidden(out.hidden),
          inner(out.inner),
          d(r.size(2)),
          width(r.size(0) * d),
          seqs(common::sequences(in.gx.size(0), in.gx.size(1), in.offsets, "gru")) {}
    Real gate(Index b, Index t, Gate which, Index x) const {
      return gates(b, t, which * width + x);
    }
    /// The hidden vector before token e of sequence n.
    Buffer<Real> state(Index n, Index e) const {
      const auto& [b, begin, length, start, end] = seqs[n];
      Buffer<Real> h(width);
      for (Index x = 0; x < width; ++x) {
        h(x) = e > 0 ? hidden(b, begin + e - 1, x) : common::state_or_zero(h0, start, x);
      }
      return h;
    }
    /// Row x of the block of R that belongs to a gate, times h.
    Real product(Gate which, Index x, const Buffer<Real>& h) const {
      const Index head = x / d;
      Real sum = 0;
      for (Index from = 0; from < d; ++from) {
        sum += r(head, which * d + x % d, from) * h(head * d + from);
      }
      return sum;
    }
    /// The transpose: adds da, the gradient of that product, to those of h and R.
    void through(Gate which, Index x, Real da, const Buffer<Real>& h, Buffer<Real>& dh,
                 const View<Real, 3>& gr) const {
      const Index head = x / d;
      for (Index from = 0; from < d; ++from) {
        dh(head * d + from) += r(head, which * d + x % d, from) * da;
        gr(head, which * d + x % d, from) += h(head * d + from) * da;
      }
    }
    bool before;
    View<const Real, 2> h0;
    View<const Real, 3> r, gates, hidden, inner;
    Index d, width;
    std::vector<common::Sequence> seqs;
  };

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call call(in, out, a);
    const View<const Real, 3> gx(in.gx);
    const View<const Real, 1> bias(in.bias), bias_n(in.bias_n);
    const View<Real, 3> gates(out.gates), hidden(out.hidden), inner(out.inner), y(out.y);
    const View<Real, 2> hT(out.hT);
    const Index w = call.width;
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length, start, end] = call.seqs[n];
      for (Index e = 0; e < length; ++e) {
        const Index t = begin + e;
        const Buffer<Real> h = call.state(n, e);
        const auto input = [&, b = b](Gate which, Index x) {
          return gx(b, t, which * w + x) + common::or_zero(bias, which * w + x);
        };
        Buffer<Real> reset(w);  // r h
        for (Index x = 0; x < w; ++x) {
          for (const Gate which : {kReset, kKeep}) {
            gates(b, t, which * w + x) =
                act::reference_sigmoid(input(which, x) + call.product(which, x, h));
          }
          reset(x) = call.gate(b, t, kReset, x) * h(x);
        }
        for (Index x = 0; x < w; ++x) {
          const Real r = call.gate(b, t, kReset, x), z = call.gate(b, t, kKeep, x);
          inner(b, t, x) =
              call.before ? reset(x) : call.product(kNew, x, h) + common::or_zero(bias_n, x);
          const Real candidate = std::tanh(
              input(kNew, x) + (call.before ? call.product(kNew, x, reset) : r * inner(b, t, x)));
          gates(b, t, kNew * w + x) = candidate;
          hidden(b, t, x) = z * h(x) + (1 - z) * candidate;
          y(b, t, x) = hidden(b, t, x);
        }
      }
      const Buffer<Real> last = call.state(n, length);
      for (Index x = 0; x < w; ++x) {
        common::put_state(hT, last(x), end, x);
      }
    }
  }

  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call call(in, out, a);
    const View<const Real, 3> gy(dout.y);
    const View<const Real, 2> ghT(dout.hT);
    auto grad = common::zero_gradients(in, din);
    const View<Real, 3> ggx(grad.gx), gr(grad.r);
    const View<Real, 2> gh0(grad.h0);
    const View<Real, 1> gbias(grad.bias), gbias_n(grad.bias_n);
    const Index w = call.width;
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length, start, end] = call.seqs[n];
      Buffer<Real> dh(w);
      for (Index x = 0; x < w; ++x) {
        dh(x) = common::state_or_zero(ghT, end, x);
      }
      for (Index e = length - 1; e >= 0; --e) {
        const Index t = begin + e;
        const Buffer<Real> h = call.state(n, e);
        Buffer<Real> before_dh(w), reset(w), dreset(w), da_n(w);
        for (Index x = 0; x < w; ++x) {
          const Real z = call.gate(b, t, kKeep, x), candidate = call.gate(b, t, kNew, x);
          dh(x) += common::or_zero(gy, b, t, x);
          before_dh(x) = dh(x) * z;
          reset(x) = call.gate(b, t, kReset, x) * h(x);
          da_n(x) = dh(x) * (1 - z) * (1 - candidate * candidate);
        }
        // Through the candidate: dreset is the gradient of r h, or of r alone.
        for (Index x = 0; x < w; ++x) {
          const Real r = call.gate(b, t, kReset, x);
          ggx(b, t, kNew * w + x) = da_n(x);
          if (call.before) {
            call.through(kNew, x, da_n(x), reset, dreset, gr);
            continue;
          }
          dreset(x) = da_n(x) * call.inner(b, t, x);
          call.through(kNew, x, da_n(x) * r, h, before_dh, gr);
          if (gbias_n) {
            gbias_n(x) += da_n(x) * r;
          }
        }
        for (Index x = 0; x < w; ++x) {
          const Real r = call.gate(b, t, kReset, x), z = call.gate(b, t, kKeep, x);
          const Real dr = call.before ? dreset(x) * h(x) : dreset(x);
          before_dh(x) += call.before ? dreset(x) * r : Real(0);
          ggx(b, t, kReset * w + x) = dr * r * (1 - r);
          ggx(b, t, kKeep * w + x) = dh(x) * (h(x) - call.gate(b, t, kNew, x)) * z * (1 - z);
        }
        for (Index x = 0; x < w; ++x) {
          for (const Gate which : {kReset, kKeep}) {
            call.through(which, x, ggx(b, t, which * w + x), h, before_dh, gr);
          }
          for (const Gate which : {kReset, kKeep, kNew}) {
            if (gbias) {
              gbias(which * w + x) += ggx(b, t, which * w + x);
            }
          }
        }
        dh = std::move(before_dh);
      }
      for (Index x = 0; x < w; ++x) {
        common::add_state(gh0, dh(x), start, x);
      }
    }
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs&) {
  const Index tokens = in.gx.size(0) * in.gx.size(1);
  return {.bytes = 3.0 * in.gx.bytes(), .flops = 2.0 * tokens * in.r.numel()};
}

LS_OP(Gru, "gru", "GRU with a dense or block-diagonal recurrent matrix")
    .in("gx[B,T,D3] r[E,R3,R]:acc bias[D3]:acc? bias_n[D]:acc? h0[N,D]:acc? offsets[N1]:i64?")
    .out("y[B,T,D] hT[B,D]:acc gates[B,T,D3]:acc hidden[B,T,D]:acc inner[B,T,D]:acc")
    .saves("gx r bias bias_n h0 offsets gates hidden inner")
    .no_grad("gates hidden inner")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
