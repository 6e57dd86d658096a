// A thread takes a channel of a head through all tokens, with its sum in f64; neighbours take
// neighbouring channels.
#include "core/ops/row_decay/row_decay.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"

namespace ls::ops {
namespace {

using Op = RowDecay;

/// An operand [B,T,heads,D] of any strides but the last.
template <class T>
struct Steps {
  Steps(const TensorView& t, Index outputs)
      : base(t.defined() ? t.data<T>() : nullptr),
        b(base ? t.stride(0) : 0),
        t(base ? t.stride(1) : 0),
        h(base ? t.stride(2) : 0),
        each(base ? outputs / t.size(2) : 1) {}
  /// Of the head that output o has.
  const __device__ T* at(Index row, Index o) const { return base + row * b + o / each * h; }
  const T* base;
  Index b, t, h, each;
};

/// y [B,T,O,D] of tokens of any type, under the decays of `in`.
template <class T, class A>
void walk(const TensorView& tokens_in, const Op::In<TensorView>& in, const Shape& shape, A* y,
          const Op::Attrs& a) {
  const Index rows = shape[0], tokens = shape[1], heads = shape[2], d = shape[3];
  const Steps<T> x(tokens_in, heads);
  const Steps<A> g(in.g, heads), gk(in.gk, heads);
  const bool from_the_end = a.span == DecaySpan::kBehind, own = a.span == DecaySpan::kUpTo;
  const A scale = static_cast<A>(a.scale);
  cuda::for_each<1>(cuda::RowShape(rows * heads, d).apart(), [=] __device__(Index r, Index c,
                                                                            auto) {
    const Index b = r / heads, o = r % heads;
    double sum = 0;
    for (Index i = 0; i < tokens; ++i) {
      const Index t = from_the_end ? tokens - 1 - i : i;
      const double here = (g.base ? static_cast<double>(g.at(b, o)[t * g.t]) : 0.0) +
                          (gk.base ? static_cast<double>(gk.at(b, o)[t * gk.t + c]) : 0.0);
      const A factor = scale * exp(static_cast<A>(own ? sum + here : sum));
      y[((b * tokens + t) * heads + o) * d + c] = factor * cuda::to_acc<A>(x.at(b, o)[t * x.t + c]);
      sum += here;
    }
  });
}

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    if (out.y.numel() > 0) {
      walk<T, A>(in.x, in, out.y.shape(), out.y.data<A>(), a);
    }
  }
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    if (din.x.numel() == 0) {
      return;
    }
    // By head of the outputs, then the heads that share one of x in order.
    const cuda::Scratch each(dout.y.numel() * static_cast<Index>(sizeof(A)));
    A* const by_head = each.as<A>();
    walk<A, A>(dout.y, in, dout.y.shape(), by_head, a);
    const Index d = din.x.size(3), share = dout.y.size(2) / din.x.size(2);
    T* const dx = din.x.data<T>();
    cuda::for_each<1>(cuda::RowShape(din.x.numel() / d, d).apart(),
                      [=] __device__(Index r, Index c, auto) {
                        A sum = 0;
                        for (Index j = 0; j < share; ++j) {
                          sum += by_head[(r * share + j) * d + c];
                        }
                        dx[r * d + c] = cuda::from_acc<T>(sum);
                      });
  }
};

LS_KERNEL(RowDecay)
    .on(DeviceType::kCuda)
    .reads("x gk y", lies::heads)
    .reads("g", lies::anyhow)
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
