// Elementwise in tokens and channels; taps read the neighbouring tokens from cache. Backward makes
// the gradient before the activation first, in acc, and what follows reads that.
//   x, y [tokens, D]   weight [D, W]   s0, sT [N, D, W-1]   dpre [tokens, D]
#include "core/ops/short_conv/short_conv.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"
#include "core/ops/common/sequences.cuh"

namespace ls::ops {
namespace {

using Op = ShortConv;

template <class T>
struct Call {
  using A = acc_t<T>;
  explicit Call(const Op::In<TensorView>& in)
      : x(in.x),
        weight(in.weight.data<A>()),
        bias(in.bias.defined() ? in.bias.data<A>() : nullptr),
        s0(in.s0.defined() ? in.s0.data<A>() : nullptr),
        seqs(in.x.size(0), in.x.size(1), in.offsets),
        rows(in.x.size(0) * in.x.size(1)),
        channels(in.weight.size(0)),
        taps(in.weight.size(1)),
        past(taps - 1) {}
  /// Channel c of the input `back` tokens before token t of sequence n, which begins at `begin`.
  __device__ A input(Index n, Index begin, Index t, Index back, Index c) const {
    const Index at = t - back;
    if (at >= begin) {
      return cuda::to_acc<A>(x.row(at)[c]);
    }
    return s0 ? s0[(n * channels + c) * past + at - begin + past] : A(0);
  }
  __device__ A before_activation(Index n, Index begin, Index t, Index c) const {
    A sum = bias ? bias[c] : A(0);
    for (Index j = 0; j < taps; ++j) {
      sum += weight[c * taps + j] * input(n, begin, t, past - j, c);
    }
    return sum;
  }

  cuda::RowsIn<T> x;
  const A *weight, *bias, *s0;
  common::DeviceSequences seqs;
  Index rows, channels, taps, past;
};

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call<T> call(in);
    T* const y = out.y.data<T>();
    const bool silu = a.silu;
    cuda::for_each<1>(
        cuda::RowShape(call.rows, call.channels).apart(), [=] __device__(Index t, Index c, auto) {
          const Index n = call.seqs.of(t);
          const A pre = call.before_activation(n, call.seqs.begin(n), t, c);
          y[t * call.channels + c] = cuda::from_acc<T>(silu ? act::device_silu(pre) : pre);
        });
    A* const sT = out.sT.data<A>();
    cuda::for_each<1>(cuda::RowShape(call.seqs.count, call.channels * call.past).apart(),
                      [=] __device__(Index n, Index i, auto) {
                        const Index c = i / call.past, u = i % call.past;
                        const Index begin = call.seqs.begin(n), end = call.seqs.end(n);
                        sT[n * call.channels * call.past + i] =
                            call.input(n, begin, end, call.past - u, c);
                      });
  }

  /// Input u of sequence n, the carried ones first, is read by output e through tap u - e, and is
  /// element u - length of sT.
  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call<T> call(in);
    const Index d = call.channels;
    const cuda::Scratch memory(call.rows * d * Index{sizeof(A)});
    A* const dpre = memory.as<A>();
    const cuda::RowsIn<T> gy(dout.y);
    const bool silu = a.silu;
    cuda::for_each<1>(cuda::RowShape(call.rows, d).apart(), [=] __device__(Index t, Index c, auto) {
      A g = gy ? cuda::to_acc<A>(gy.row(t)[c]) : A(0);
      if (silu && gy) {
        const Index n = call.seqs.of(t);
        g *= act::device_silu_slope(call.before_activation(n, call.seqs.begin(n), t, c));
      }
      dpre[t * d + c] = g;
    });
    const A* const gsT = dout.sT.defined() ? dout.sT.data<A>() : nullptr;
    input_gradients(call, dpre, gsT, din);
    if (din.weight.defined()) {
      cuda::column_sums<1, A>(call.rows, d * call.taps, {{din.weight.data<A>()}},
                              [=] __device__(Index t, Index i, A(&sum)[1]) {
                                const Index c = i / call.taps, j = i % call.taps;
                                const Index n = call.seqs.of(t);
                                sum[0] = dpre[t * d + c] *
                                         call.input(n, call.seqs.begin(n), t, call.past - j, c);
                              });
    }
    if (din.bias.defined()) {
      cuda::column_sums<1, A>(
          call.rows, d, {{din.bias.data<A>()}},
          [=] __device__(Index t, Index c, A(&sum)[1]) { sum[0] = dpre[t * d + c]; });
    }
  }
  static void input_gradients(const Call<T>& call, const A* dpre, const A* gsT,
                              Op::In<TensorView>& din) {
    const Index d = call.channels;
    const auto gradient = [=] __device__(Index n, Index u, Index c) {
      const Index begin = call.seqs.begin(n), length = call.seqs.end(n) - begin;
      A sum = gsT && u >= length ? gsT[(n * d + c) * call.past + u - length] : A(0);
      for (Index j = 0; j < call.taps; ++j) {
        const Index e = u - j;
        if (e >= 0 && e < length) {
          sum += dpre[(begin + e) * d + c] * call.weight[c * call.taps + j];
        }
      }
      return sum;
    };
    const cuda::RowsTo<T> gx(din.x);
    if (gx) {
      cuda::for_each<1>(
          cuda::RowShape(call.rows, d).apart(), [=] __device__(Index t, Index c, auto) {
            const Index n = call.seqs.of(t);
            gx.row(t)[c] = cuda::from_acc<T>(gradient(n, t - call.seqs.begin(n) + call.past, c));
          });
    }
    if (din.s0.defined()) {
      A* const gs0 = din.s0.data<A>();
      cuda::for_each<1>(cuda::RowShape(call.seqs.count, d * call.past).apart(),
                        [=] __device__(Index n, Index i, auto) {
                          gs0[n * d * call.past + i] = gradient(n, i % call.past, i / call.past);
                        });
    }
  }
};

LS_KERNEL(ShortConv)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
