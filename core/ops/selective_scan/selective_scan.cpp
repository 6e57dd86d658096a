#include "core/ops/selective_scan/selective_scan.h"

#include <cmath>

#include "core/ops/common/reference.h"
#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = SelectiveScan;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs&, Bindings&) {
  const Index d = in.x.size(2), groups = in.b.size(2);
  LS_CHECK(groups > 0 && d % groups == 0, kShape,
           "selective_scan: {} channels of x are not a multiple of {} groups of b", d, groups);
  common::bind_states("selective_scan", in.x.size(0), in.offsets, in.s0);
}

template <class Real>
struct Reference {
  struct Call {
    const Op::In<TensorView>& in;
    View<const Real, 3> x{in.x}, dt{in.dt}, s0{in.s0};
    View<const Real, 2> a{in.a};
    View<const Real, 4> b{in.b}, c{in.c};
    std::vector<common::Sequence> seqs =
        common::sequences(x.size(0), x.size(1), in.offsets, "selective_scan");

    Index group(Index d) const { return d / (x.size(2) / b.size(2)); }
    Real decay(Index r, Index t, Index d, Index s) const { return std::exp(dt(r, t, d) * a(d, s)); }
    /// h_0 .. h_T of an element of sequence n.
    Buffer<Real, 1> states(Index n, Index d, Index s) const {
      const auto& [r, begin, length, start, end] = seqs[n];
      Buffer<Real, 1> h(length + 1);
      h(0) = common::state_or_zero(s0, start, d, s);
      for (Index e = 0; e < length; ++e) {
        const Index t = begin + e;
        h(e + 1) = decay(r, t, d, s) * h(e) + dt(r, t, d) * x(r, t, d) * b(r, t, group(d), s);
      }
      return h;
    }
    /// f(sequence, channel, place in the state)
    template <class F>
    void for_elements(F&& f) const {
      for (Index n = 0; n < std::ssize(seqs); ++n) {
        for (Index d = 0; d < a.size(0); ++d) {
          for (Index s = 0; s < a.size(1); ++s) {
            f(n, d, s);
          }
        }
      }
    }
  };

  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const Call call{in};
    const View<Real, 3> y(common::zeroed(out.y)), sT(out.sT);
    call.for_elements([&](Index n, Index d, Index s) {
      const auto& [r, begin, length, start, end] = call.seqs[n];
      const Buffer<Real, 1> h = call.states(n, d, s);
      for (Index e = 0; e < length; ++e) {
        y(r, begin + e, d) += call.c(r, begin + e, call.group(d), s) * h(e + 1);
      }
      common::put_state(sT, h(length), end, d, s);
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const Call call{in};
    const View<const Real, 3> gy(dout.y), gsT(dout.sT);
    auto grad = common::zero_gradients(in, din);
    const View<Real, 3> gx(grad.x), gdt(grad.dt), gs0(grad.s0);
    const View<Real, 2> ga(grad.a);
    const View<Real, 4> gb(grad.b), gc(grad.c);
    call.for_elements([&](Index n, Index d, Index s) {
      const auto& [r, begin, length, start, end] = call.seqs[n];
      const Buffer<Real, 1> h = call.states(n, d, s);
      const Index g = call.group(d);
      Real dh = common::state_or_zero(gsT, end, d, s);
      for (Index e = length - 1; e >= 0; --e) {
        const Index t = begin + e;
        const Real x = call.x(r, t, d), dt = call.dt(r, t, d), b = call.b(r, t, g, s);
        const Real dy = common::or_zero(gy, r, t, d);
        gc(r, t, g, s) += dy * h(e + 1);
        dh += dy * call.c(r, t, g, s);
        const Real through = dh * call.decay(r, t, d, s) * h(e);
        ga(d, s) += dt * through;
        gdt(r, t, d) += call.a(d, s) * through + dh * x * b;
        gx(r, t, d) += dh * dt * b;
        gb(r, t, g, s) += dh * dt * x;
        dh *= call.decay(r, t, d, s);
      }
      common::add_state(gs0, dh, start, d, s);
    });
  }
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs&) {
  const double states = 1.0 * in.x.size(0) * in.a.numel();
  return {.bytes = 2 * in.x.bytes() + in.dt.bytes() + in.b.bytes() + in.c.bytes() +
                   (in.s0.defined() ? 2 : 1) * states * dtype_size(acc_dtype(in.x.dtype())),
          .flops = 6.0 * in.x.numel() * in.a.size(1)};
}

LS_OP(SelectiveScan, "selective_scan", "states of single channels, a decay for every element")
    .in("x[B,T,D] dt[B,T,D]:acc a[D,S]:acc b[B,T,G,S] c[B,T,G,S] s0[N,D,S]:acc? offsets[N1]:i64?")
    .out("y[B,T,D] sT[B,D,S]:acc")
    .saves("x dt a b c s0 offsets")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
