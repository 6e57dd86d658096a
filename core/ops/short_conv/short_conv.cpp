#include "core/ops/short_conv/short_conv.h"

#include "core/backend/cpu/simd_math.h"
#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = ShortConv;

void bind(const Op::In<Tensor>& in, const Op::Attrs&, Bindings& b) {
  LS_CHECK(in.weight.size(1) >= 1, kShape, "short_conv: no taps");
  const Index n = common::sequence_count(in.x.size(0), in.offsets);
  LS_CHECK(!in.s0.defined() || in.s0.size(0) == n, kShape,
           "short_conv: s0 has {} rows for {} sequences", in.s0.defined() ? in.s0.size(0) : 0, n);
  if (!b.has("N")) {
    b.set("N", n);
  }
}

/// Tap j of output t reads the extended input t + j: W-1 carried inputs, then the sequence's own.
template <class Real>
struct Reference {
  struct Call {
    const Op::In<Tensor>& in;
    Tensor x, weight, bias, s0;
    Index channels, taps, past, tokens;
    explicit Call(const Op::In<Tensor>& i)
        : in(i),
          x(i.x.contiguous()),
          weight(i.weight.contiguous()),
          bias(i.bias.defined() ? i.bias.contiguous() : Tensor()),
          s0(i.s0.defined() ? i.s0.contiguous() : Tensor()),
          channels(i.weight.size(0)),
          taps(i.weight.size(1)),
          past(taps - 1),
          tokens(i.x.size(1)) {}
    std::vector<common::Sequence> sequences() const {
      return common::sequences(in.x.size(0), tokens, in.offsets, "short_conv");
    }
    Index element(const common::Sequence& s, Index t, Index c) const {
      return (s.row * tokens + s.begin + t) * channels + c;
    }
    Index carried(Index n, Index u, Index c) const { return (n * channels + c) * past + u; }
    Real input(const common::Sequence& s, Index n, Index u, Index c) const {
      if (u < past) {
        return s0.defined() ? s0.data<Real>()[carried(n, u, c)] : Real(0);
      }
      return x.data<Real>()[element(s, u - past, c)];
    }
    Real tap(Index c, Index j) const { return weight.data<Real>()[c * taps + j]; }
    Real before_activation(const common::Sequence& s, Index n, Index t, Index c) const {
      Real sum = bias.defined() ? bias.data<Real>()[c] : Real(0);
      for (Index j = 0; j < taps; ++j) {
        sum += tap(c, j) * input(s, n, t + j, c);
      }
      return sum;
    }
  };
  static void forward(const Op::In<Tensor>& in, Op::Out<Tensor>& out, const Op::Attrs& a) {
    const Call call(in);
    Index n = 0;
    for (const common::Sequence& s : call.sequences()) {
      for (Index c = 0; c < call.channels; ++c) {
        for (Index t = 0; t < s.length; ++t) {
          const Real y = call.before_activation(s, n, t, c);
          out.y.data<Real>()[call.element(s, t, c)] = a.silu ? simd::silu(y) : y;
        }
        for (Index u = 0; u < call.past; ++u) {
          out.sT.data<Real>()[call.carried(n, u, c)] = call.input(s, n, s.length + u, c);
        }
      }
      ++n;
    }
  }
  static void backward(const Op::In<Tensor>& in, const Op::Out<Tensor>&,
                       const Op::Out<Tensor>& dout, Op::In<Tensor>& din, const Op::Attrs& a) {
    const Call call(in);
    const Tensor dy = dout.y.defined() ? dout.y.contiguous() : Tensor();
    const Tensor dsT = dout.sT.defined() ? dout.sT.contiguous() : Tensor();
    for (Tensor* d : {&din.x, &din.weight, &din.bias, &din.s0}) {
      if (d->defined()) {
        d->zero_();
      }
    }
    Index n = 0;
    for (const common::Sequence& s : call.sequences()) {
      for (Index c = 0; c < call.channels; ++c) {
        const auto add_to_input = [&](Index u, Real d) {
          if (u < call.past && din.s0.defined()) {
            din.s0.data<Real>()[call.carried(n, u, c)] += d;
          } else if (u >= call.past && din.x.defined()) {
            din.x.data<Real>()[call.element(s, u - call.past, c)] += d;
          }
        };
        for (Index t = 0; t < s.length && dy.defined(); ++t) {
          Real d = dy.data<Real>()[call.element(s, t, c)];
          if (a.silu) {
            d *= simd::silu_grad(call.before_activation(s, n, t, c));
          }
          if (din.bias.defined()) {
            din.bias.data<Real>()[c] += d;
          }
          for (Index j = 0; j < call.taps; ++j) {
            if (din.weight.defined()) {
              din.weight.data<Real>()[c * call.taps + j] += d * call.input(s, n, t + j, c);
            }
            add_to_input(t + j, d * call.tap(c, j));
          }
        }
        for (Index u = 0; u < call.past && dsT.defined(); ++u) {
          add_to_input(s.length + u, dsT.data<Real>()[call.carried(n, u, c)]);
        }
      }
      ++n;
    }
  }
};

Cost cost(const Op::In<Tensor>& in, const Op::Attrs&) {
  return {.bytes = 2.0 * static_cast<double>(in.x.bytes()),
          .flops = 2.0 * static_cast<double>(in.x.numel() * in.weight.size(1))};
}

LS_OP(ShortConv, "short_conv", "depthwise causal convolution")
    .in("x[B,T,D] weight[D,W]:acc bias[D]:acc? s0[N,D,W-1]:acc? offsets[N1]:i64?")
    .out("y[B,T,D] sT[N,D,W-1]:acc")
    .saves("x weight bias s0 offsets")
    .strided_grad("x")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
