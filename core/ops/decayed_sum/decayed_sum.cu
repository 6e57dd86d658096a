// Tokens times their decays go to scratch memory, [B,P,T,D]: a thread takes a channel of a head
// through all tokens, with its sum in f64; neighbours take neighbouring channels. Then products by
// cuBLASLt, and sums of those that share a head.
#include "core/backend/cuda/device/rows.cuh"
#include "core/backend/cuda/gemm.h"
#include "core/op/op.h"
#include "core/ops/decayed_sum/pairs.h"

namespace ls::ops {
namespace {

using Op = DecayedSum;

/// An operand [B,T,heads,D] of any strides but the last.
template <class T>
struct Steps {
  Steps(const TensorView& t, Index pairs)
      : base(t.defined() ? t.data<T>() : nullptr),
        b(base ? t.stride(0) : 0),
        t(base ? t.stride(1) : 0),
        h(base ? t.stride(2) : 0),
        each(base ? pairs / t.size(2) : 1) {}
  /// Of the head that pair p has.
  const __device__ T* at(Index row, Index p) const { return base + row * b + p / each * h; }
  const T* base;
  Index b, t, h, each;
};

/// y [B,P,T,D] of tokens times their decays; `left` [B,P,D or 1], unless null, of all decays.
template <class T, class A>
void decay(const TensorView& tokens_in, const TensorView& by_head, const TensorView& by_channel,
           Index pairs, DecaySpan span, A* y, TensorView& total) {
  const Index tokens = tokens_in.size(1), d = tokens_in.size(3);
  const Steps<T> x(tokens_in, pairs);
  const Steps<A> g(by_head, pairs), gk(by_channel, pairs);
  A* const left = total.defined() ? total.data<A>() : nullptr;
  const Index left_d = left ? total.size(2) : 0;
  const bool from_the_end = span == DecaySpan::kBehind, own = span == DecaySpan::kUpTo;
  cuda::for_each<1>(
      cuda::RowShape(tokens_in.size(0) * pairs, d).apart(), [=] __device__(Index r, Index c, auto) {
        const Index b = r / pairs, p = r % pairs;
        double sum = 0;
        for (Index i = 0; i < tokens; ++i) {
          const Index t = from_the_end ? tokens - 1 - i : i;
          const double here = (g.base ? static_cast<double>(g.at(b, p)[t * g.t]) : 0.0) +
                              (gk.base ? static_cast<double>(gk.at(b, p)[t * gk.t + c]) : 0.0);
          const A factor = exp(static_cast<A>(own ? sum + here : sum));
          y[(r * tokens + t) * d + c] = factor * cuda::to_acc<A>(x.at(b, p)[t * x.t + c]);
          sum += here;
        }
        if (c < left_d) {
          left[r * left_d + c] = exp(static_cast<A>(sum));
        }
      });
}

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    if (out.s.size(0) * a.heads == 0) {
      return;
    }
    constexpr auto kBytes = static_cast<Index>(sizeof(A));
    const Index rows = in.x.size(0), tokens = in.x.size(1), k = in.x.size(3), v = in.y.size(3);
    const Index all = decayed_sum::pairs(in, a), each = all / a.heads;
    const cuda::Scratch xs(rows * all * tokens * k * kBytes), ys(rows * all * tokens * v * kBytes);
    decay<T, A>(in.x, in.g, in.gk, all, a.span, xs.as<A>(), out.left);
    decay<T, A>(in.y, {}, in.gv, all, a.span, ys.as<A>(), out.left_y);
    const cuda::Scratch products(each > 1 ? rows * all * k * v * kBytes : 0);
    A* const s = out.s.data<A>();
    A* const by_pair = each > 1 ? products.as<A>() : s;
    cuda::gemm({.in = dtype_of_v<A>,
                .out = dtype_of_v<A>,
                .m = k,
                .n = v,
                .k = tokens,
                .count = rows * all,
                .alpha = a.scale},
               {xs.data(), k, true, tokens * k}, {ys.data(), v, false, tokens * v}, by_pair, v,
               k * v);
    if (each == 1) {
      return;
    }
    cuda::for_each<1>(cuda::RowShape(rows * a.heads, k * v).apart(),
                      [=] __device__(Index r, Index c, auto) {
                        A sum = 0;
                        for (Index j = 0; j < each; ++j) {
                          sum += by_pair[(r * each + j) * k * v + c];
                        }
                        s[r * k * v + c] = sum;
                      });
  }
  static void backward(const Op::In<TensorView>&, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>&, Op::In<TensorView>&, const Op::Attrs&) {}
};

LS_KERNEL(DecayedSum)
    .on(DeviceType::kCuda)
    .reads("x y gk gv", lies::heads)
    .reads("g", lies::anyhow)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
