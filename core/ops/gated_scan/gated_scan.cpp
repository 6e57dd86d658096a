#include "core/ops/gated_scan/gated_scan.h"

#include <cmath>

#include "core/ops/common/reference.h"
#include "core/ops/common/sequences.h"

namespace ls::ops {
namespace {

using Op = GatedScan;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs&, Bindings&) {
  common::bind_states("gated_scan", in.u.size(0), in.offsets, in.h0, "h0");
}

template <class Real>
struct Reference {
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs&) {
    const auto seqs = common::sequences(in.u.size(0), in.u.size(1), in.offsets, "gated_scan");
    const View<const Real, 3> u(in.u), g(in.g);
    const View<const Real, 2> h0(in.h0);
    const View<Real, 3> y(out.y);
    const View<Real, 2> hT(out.hT);
    for (const auto& [b, begin, length, start, end] : seqs) {
      for (Index c = 0; c < in.u.size(2); ++c) {
        Real h = common::state_or_zero(h0, start, c);
        for (Index t = begin; t < begin + length; ++t) {
          h = std::exp(g(b, t, c)) * h + u(b, t, c);
          y(b, t, c) = h;
        }
        common::put_state(hT, h, end, c);
      }
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>& out,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din, const Op::Attrs&) {
    const auto seqs = common::sequences(in.g.size(0), in.g.size(1), in.offsets, "gated_scan");
    const View<const Real, 3> g(in.g), y(out.y), gy(dout.y);
    const View<const Real, 2> h0(in.h0), ghT(dout.hT);
    auto d = common::zero_gradients(in, din);
    const View<Real, 3> gu(d.u), gg(d.g);
    const View<Real, 2> gh0(d.h0);
    for (const auto& [b, begin, length, start, end] : seqs) {
      for (Index c = 0; c < in.g.size(2); ++c) {
        Real dh = common::state_or_zero(ghT, end, c);
        for (Index t = begin + length - 1; t >= begin; --t) {
          const Real before = t > begin ? y(b, t - 1, c) : common::state_or_zero(h0, start, c);
          dh += common::or_zero(gy, b, t, c);
          if (gu) {
            gu(b, t, c) = dh;
          }
          gg(b, t, c) = dh * std::exp(g(b, t, c)) * before;
          dh *= std::exp(g(b, t, c));
        }
        common::add_state(gh0, dh, start, c);
      }
    }
  }
};

LS_OP(GatedScan, "gated_scan", "h = exp(g) h + u, channel by channel")
    .in("u[B,T,D] g[B,T,D]:acc h0[N,D]:acc? offsets[N1]:i64?")
    .out("y[B,T,D] hT[B,D]:acc")
    .saves("g y h0 offsets")
    .continues("h0", "hT")
    .bind(bind)
    .reference<Reference>()
    .cost(3, 4);

}  // namespace
}  // namespace ls::ops
