#include "core/ops/short_conv/short_conv.h"

#include "core/backend/cpu/simd_math.h"
#include "core/op/remade.h"
#include "core/ops/common/reference.h"
#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = ShortConv;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs&, Bindings&) {
  LS_CHECK(in.weight.size(1) >= 1, kShape, "short_conv: no taps");
  common::bind_states("short_conv", in.x.size(0), in.offsets, in.s0);
}

/// Tap j of output t reads the extended input t + j: W-1 carried inputs, then the sequence's own.
template <class Real>
struct Reference {
  struct Call {
    explicit Call(const Op::In<TensorView>& in)
        : x(in.x),
          s0(in.s0),
          weight(in.weight),
          bias(in.bias),
          channels(weight.size(0)),
          taps(weight.size(1)),
          past(taps - 1),
          seqs(common::sequences(x.size(0), x.size(1), in.offsets, "short_conv")) {}
    /// Extended input u of channel c of sequence n.
    Real input(Index n, Index u, Index c) const {
      return u < past ? common::state_or_zero(s0, seqs[n].start, c, u)
                      : x(seqs[n].row, seqs[n].begin + u - past, c);
    }
    Real before_activation(Index n, Index e, Index c) const {
      Real sum = common::or_zero(bias, c);
      for (Index j = 0; j < taps; ++j) {
        sum += weight(c, j) * input(n, e + j, c);
      }
      return sum;
    }
    View<const Real, 3> x, s0;
    View<const Real, 2> weight;
    View<const Real, 1> bias;
    Index channels, taps, past;
    std::vector<common::Sequence> seqs;
  };

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call call(in);
    const View<Real, 3> y(out.y), sT(out.sT);
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length, start, end] = call.seqs[n];
      for (Index c = 0; c < call.channels; ++c) {
        for (Index e = 0; e < length; ++e) {
          const Real pre = call.before_activation(n, e, c);
          y(b, begin + e, c) = a.silu ? simd::silu(pre) : pre;
        }
        for (Index u = 0; u < call.past; ++u) {
          common::put_state(sT, call.input(n, length + u, c), end, c, u);
        }
      }
    }
  }

  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call call(in);
    const View<const Real, 3> gy(dout.y), gsT(dout.sT);
    auto d = common::zero_gradients(in, din);
    const View<Real, 3> gx(d.x), gs0(d.s0);
    const View<Real, 2> gweight(d.weight);
    const View<Real, 1> gbias(d.bias);
    for (Index n = 0; n < std::ssize(call.seqs); ++n) {
      const auto& [b, begin, length, start, end] = call.seqs[n];
      const auto add_to_input = [&, b = b, begin = begin, start = start](Index u, Index c,
                                                                         Real dx) {
        if (u >= call.past) {
          gx(b, begin + u - call.past, c) += dx;
        } else {
          common::add_state(gs0, dx, start, c, u);
        }
      };
      for (Index c = 0; c < call.channels; ++c) {
        for (Index e = 0; e < length; ++e) {
          Real dy = common::or_zero(gy, b, begin + e, c);
          if (a.silu) {
            dy *= simd::silu_grad(call.before_activation(n, e, c));
          }
          if (gbias) {
            gbias(c) += dy;
          }
          for (Index j = 0; j < call.taps; ++j) {
            gweight(c, j) += dy * call.input(n, e + j, c);
            add_to_input(e + j, c, dy * call.weight(c, j));
          }
        }
        for (Index u = 0; u < call.past; ++u) {
          add_to_input(length + u, c, common::state_or_zero(gsT, end, c, u));
        }
      }
    }
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs&) {
  return {.bytes = 2.0 * in.x.bytes(), .flops = 2.0 * in.x.numel() * in.weight.size(1)};
}

LS_OP(ShortConv, "short_conv", "depthwise causal convolution")
    .in("x[B,T,D] weight[D,W]:acc bias[D]:acc? s0[N,D,W-1]:acc? offsets[N1]:i64?")
    .out("y[B,T,D] sT[B,D,W-1]:acc")
    .saves("x weight bias s0 offsets")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);
LS_REMADE(ShortConv, "y");

}  // namespace
}  // namespace ls::ops
