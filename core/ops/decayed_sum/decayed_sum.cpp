#include "core/ops/decayed_sum/decayed_sum.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/op/declare.h"
#include "core/ops/common/elements.h"
#include "core/ops/decayed_sum/pairs.h"
#include "core/tensor/view.h"

namespace ls::ops {
namespace {

using Op = DecayedSum;

void bind(const Op::In<ShapeOf>& in, const Op::Attrs& a, Bindings& b) {
  const Index all = decayed_sum::pairs(in, a);
  const auto fits = [&](const ShapeOf& t) {
    return !t.defined() || (t.size(2) > 0 ? all % t.size(2) == 0 : all == 0);
  };
  LS_CHECK(a.heads >= 0 && (a.heads > 0 ? all % a.heads == 0 : all == 0) && fits(in.x) &&
               fits(in.y) && fits(in.g) && fits(in.gk) && fits(in.gv),
           kShape,
           "decayed_sum: x, y, g, gk, gv and s have {}, {}, {}, {}, {} and {} heads (-1: absent); "
           "expected divisors of the greatest",
           decayed_sum::heads_of(in.x), decayed_sum::heads_of(in.y), decayed_sum::heads_of(in.g),
           decayed_sum::heads_of(in.gk), decayed_sum::heads_of(in.gv), a.heads);
  LS_CHECK(!a.totals || a.heads == all, kShape,
           "decayed_sum: totals of decays are by head of s, of which there are {}, and tokens or "
           "decays have {}; expected as many",
           a.heads, all);
  b.set("S", a.heads);
  b.set("KL", in.gk.defined() ? in.x.size(3) : 1);
  b.set("VL", in.y.size(3));
  if (!a.totals) {
    b.drop_output("left");
  }
  if (!a.totals || !in.gv.defined()) {
    b.drop_output("left_y");
  }
}

template <class Real>
struct Reference {
  /// Decays of all tokens [T] for one head: those of `g` and of channel c of `by_channel`; behind
  /// them that of all.
  static std::vector<double> decays(const View<const Real, 3>& g, Index gh,
                                    const View<const Real, 4>& by_channel, Index ch, Index c,
                                    Index b, Index tokens, DecaySpan span) {
    std::vector<double> out(static_cast<std::size_t>(tokens + 1));
    double sum = 0;
    for (Index i = 0; i < tokens; ++i) {
      const Index t = span == DecaySpan::kBehind ? tokens - 1 - i : i;
      const double own =
          (g ? double(g(b, t, gh)) : 0.0) + (by_channel ? double(by_channel(b, t, ch, c)) : 0.0);
      out[static_cast<std::size_t>(t)] = std::exp(span == DecaySpan::kUpTo ? sum + own : sum);
      sum += own;
    }
    out.back() = std::exp(sum);
    return out;
  }
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const View<const Real, 4> x(in.x), y(in.y), gk(in.gk), gv(in.gv);
    const View<const Real, 3> g(in.g);
    const View<Real, 4> s(common::zeroed(out.s));
    const View<Real, 3> left(out.left), left_y(out.left_y);
    const Index all = decayed_sum::pairs(in, a), tokens = x.size(1);
    const auto head = [all](const auto& t, Index p) { return t ? p / (all / t.size(2)) : 0; };
    for (Index b = 0; b < x.size(0); ++b) {
      for (Index p = 0; p < all; ++p) {
        for (Index k = 0; k < x.size(3); ++k) {
          const auto dx = decays(g, head(g, p), gk, head(gk, p), k, b, tokens, a.span);
          if (left && k < left.size(2)) {
            left(b, p, k) = Real(dx.back());
          }
          for (Index v = 0; v < y.size(3); ++v) {
            const auto dy = decays({}, 0, gv, head(gv, p), v, b, tokens, a.span);
            if (left_y) {
              left_y(b, p, v) = Real(dy.back());
            }
            double sum = 0;
            for (Index t = 0; t < tokens; ++t) {
              const auto i = static_cast<std::size_t>(t);
              sum +=
                  dx[i] * double(x(b, t, head(x, p), k)) * dy[i] * double(y(b, t, head(y, p), v));
            }
            s(b, p / (all / a.heads), k, v) += Real(a.scale * sum);
          }
        }
      }
    }
  }
  static void backward(const Op::In<TensorView>&, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>&, Op::In<TensorView>&, const Op::Attrs&) {}
};

Cost cost(const Op::In<ShapeOf>& in, const Op::Attrs& a) {
  const double tokens = static_cast<double>(in.x.size(0) * in.x.size(1));
  const double pairs = static_cast<double>(decayed_sum::pairs(in, a));
  return {.bytes = static_cast<double>(in.x.bytes() + in.y.bytes() + in.g.bytes() + in.gk.bytes() +
                                       in.gv.bytes()),
          .flops = 2 * tokens * pairs * static_cast<double>(in.x.size(3) * in.y.size(3))};
}

LS_OP(DecayedSum, "decayed_sum", "sums of outer products of tokens under decays: summaries")
    .in("x[B,T,N,K] y[B,T,M,V] g[B,T,H]:acc? gk[B,T,HK,K]:acc? gv[B,T,HV,V]:acc?")
    .out("s[B,S,K,V]:acc left[B,S,KL]:acc? left_y[B,S,VL]:acc?")
    .no_grad("x y g gk gv s left left_y")
    .bind(bind)
    .reference<Reference>()
    .cost(cost);

}  // namespace
}  // namespace ls::ops
