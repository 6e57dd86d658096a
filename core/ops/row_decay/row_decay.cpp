#include "core/ops/row_decay/row_decay.h"

#include <algorithm>
#include <cmath>

#include "core/op/declare.h"
#include "core/ops/common/elements.h"
#include "core/tensor/view.h"

namespace ls::ops {
namespace {

using Op = RowDecay;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs&, Bindings& b) {
  const Index n = in.x.size(2), h = b.has("H") ? b["H"] : n;
  LS_CHECK(n > 0 && h > 0 ? n % h == 0 || h % n == 0 : n == h, kShape,
           "row_decay: x has {} heads, g and gk have {}: expected a multiple of either", n, h);
  b.set("O", std::max(n, h));
}

template <class Real>
struct Reference {
  /// f(b, t, o, c, factor): scale exp(sum of g[b,s,h] + gk[b,s,h,c] over the span of t).
  template <class F>
  static void for_factors(const Op::In<TensorView>& in, const Op::Attrs& a, const Shape& shape,
                          F&& f) {
    const View<const Real, 4> gk(in.gk);
    const View<const Real, 3> g(in.g);
    const Index tokens = shape[1], heads = shape[2];
    const Index h_each = heads / std::max<Index>(1, gk ? gk.size(2) : g ? g.size(2) : heads);
    const bool from_the_end = a.span == DecaySpan::kBehind;
    for (Index b = 0; b < shape[0]; ++b) {
      for (Index o = 0; o < heads; ++o) {
        for (Index c = 0; c < shape[3]; ++c) {
          double sum = 0;
          for (Index i = 0; i < tokens; ++i) {
            const Index t = from_the_end ? tokens - 1 - i : i;
            const double own = (g ? double(g(b, t, o / h_each)) : 0.0) +
                               (gk ? double(gk(b, t, o / h_each, c)) : 0.0);
            const double counted = a.span == DecaySpan::kUpTo ? sum + own : sum;
            f(b, t, o, c, a.scale * std::exp(counted));
            sum += own;
          }
        }
      }
    }
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const View<const Real, 4> x(in.x);
    const View<Real, 4> y(out.y);
    const Index each = y.size(2) / std::max<Index>(1, x.size(2));
    for_factors(in, a, out.y.shape(), [&](Index b, Index t, Index o, Index c, double factor) {
      y(b, t, o, c) = Real(factor * double(x(b, t, o / each, c)));
    });
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const View<const Real, 4> dy(dout.y);
    const View<Real, 4> dx(common::zeroed(din.x));
    const Index each = dy.size(2) / std::max<Index>(1, dx.size(2));
    for_factors(in, a, dout.y.shape(), [&](Index b, Index t, Index o, Index c, double factor) {
      dx(b, t, o / each, c) += Real(factor * double(dy(b, t, o, c)));
    });
  }
};

LS_OP(RowDecay, "row_decay", "tokens times what decays leave of them, or they read")
    .in("x[B,T,N,D] g[B,T,H]:acc? gk[B,T,H,D]:acc?")
    .out("y[B,T,O,D]:acc")
    .saves("g gk")
    .no_grad("g gk")
    .bind(bind)
    .reference<Reference>()
    .cost(3, 0);

}  // namespace
}  // namespace ls::ops
