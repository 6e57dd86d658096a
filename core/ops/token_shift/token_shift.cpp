#include "core/ops/token_shift/token_shift.h"

#include "core/ops/common/reference.h"
#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = TokenShift;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs&, Bindings&) {
  common::bind_states("token_shift", in.x.size(0), in.offsets, in.s0);
}

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const auto seqs = common::sequences(in.x.size(0), in.x.size(1), in.offsets, "token_shift");
    const View<const Real, 3> x(in.x);
    const View<const Real, 2> s0(in.s0);
    const View<Real, 3> y(out.y);
    const View<Real, 2> sT(out.sT);
    for (Index n = 0; n < std::ssize(seqs); ++n) {
      const auto& [b, begin, length, start, end] = seqs[n];
      for (Index c = 0; c < x.size(2); ++c) {
        Real previous = common::state_or_zero(s0, start, c);
        for (Index t = begin; t < begin + length; ++t) {
          y(b, t, c) = previous - x(b, t, c);
          previous = x(b, t, c);
        }
        common::put_state(sT, previous, end, c);
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const auto seqs = common::sequences(in.x.size(0), in.x.size(1), in.offsets, "token_shift");
    const View<const Real, 3> gy(dout.y);
    const View<const Real, 2> gsT(dout.sT);
    const View<Real, 3> gx(din.x);
    View<Real, 2> gs0;
    if (din.s0.defined()) {
      gs0 = View<Real, 2>(common::zeroed(din.s0));
    }
    for (Index n = 0; n < std::ssize(seqs); ++n) {
      const auto& [b, begin, length, start, end] = seqs[n];
      for (Index c = 0; c < in.x.size(2); ++c) {
        Real next = common::state_or_zero(gsT, end, c);  // as the token before the next one
        for (Index t = begin + length - 1; t >= begin; --t) {
          const Real dy = common::or_zero(gy, b, t, c);
          if (gx) {
            gx(b, t, c) = next - dy;
          }
          next = dy;
        }
        common::add_state(gs0, next, start, c);
      }
    }
  }
};

LS_OP(TokenShift, "token_shift", "difference to the previous token")
    .in("x[B,T,D] s0[N,D]:acc? offsets[N1]:i64?")
    .out("y[B,T,D] sT[B,D]:acc")
    .saves("x offsets")
    .bind(bind)
    .reference<Reference>()
    .cost(2, 1);

}  // namespace
}  // namespace ls::ops
