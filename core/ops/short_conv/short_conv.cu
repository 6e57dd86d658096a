// A thread takes some neighbouring channels of a strip of tokens and slides a window of inputs
// along it, four tokens at once, so that each input is read once. Backward slides a window of
// gradients before the activation as well, with sums for weight and bias of each strip. Inside a
// sequence the next batches are on their way to shared memory meanwhile, where every thread has
// places of its own (Feed). More taps than kTaps: elementwise, the taps from cache.
//   x, y [tokens, D]   weight [D, W]   s0 [N, D, W-1]   sT [B, D, W-1]
//   dpre [tokens, D]
#include "core/ops/short_conv/short_conv.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"
#include "core/ops/common/sequences.cuh"
#include "core/ops/short_conv/short_conv_strips.cuh"

namespace ls::ops {
namespace {

using Op = ShortConv;

using namespace strips;

/// The gradient before the activation: there already, or made of that of y.
template <class T>
struct Before {
  using A = acc_t<T>;
  Call<T> call;
  const A* made;
  cuda::RowsIn<T> gy;
  bool silu;
  __device__ A at(Index n, Index t, Index c) const {
    if (made) {
      return made[t * call.channels + c];
    }
    const A g = gy ? cuda::to_acc<A>(gy.row(t)[c]) : A(0);
    return silu ? g * act::device_silu_slope(call.before_activation(n, call.seqs.begin(n), t, c))
                : g;
  }
};

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call<T> call(in);
    const cuda::RowsTo<T> y(out.y);
    const bool silu = a.silu;
    A* const sT = out.sT.data<A>();
    if (in.x.size(1) == 1 && !in.offsets.defined() && call.taps <= kTaps) {
      one_token(call, silu, y, sT);
      return;
    }
    if (call.taps > kTaps) {
      cuda::for_each<1>(cuda::RowShape(call.rows, call.channels).apart(),
                        [=] __device__(Index t, Index c, auto) {
                          const Index n = call.seqs.of(t);
                          const A pre = call.before_activation(n, call.seqs.begin(n), t, c);
                          y.row(t)[c] = cuda::from_acc<T>(silu ? act::device_silu(pre) : pre);
                        });
    } else {
      on_strips(call, [&]<int kWidth>(dim3 blocks, Index strip) {
        const bool fed = feeds<T, kWidth>(call.x);
        cuda::launch(silu ? &forward_kernel<T, kWidth, true> : &forward_kernel<T, kWidth, false>,
                     blocks, dim3(256), fed ? Feed<T, kWidth, 1>::kBytes : 0, call, strip, fed, y);
      });
    }
    cuda::for_each<1>(cuda::RowShape(call.seqs.batch, call.channels * call.past).apart(),
                      [=] __device__(Index row, Index i, auto) {
                        const Index c = i / call.past, u = i % call.past;
                        const Index n = call.seqs.last_of(row);
                        const Index begin = call.seqs.begin(n), end = call.seqs.end(n);
                        sT[row * call.channels * call.past + i] =
                            call.input(n, begin, end, call.past - u, c);
                      });
  }
  /// As decoding has it: output and next state at once. A thread has read its state when it writes.
  static void one_token(const Call<T>& call, bool silu, const cuda::RowsTo<T>& y, A* sT) {
    cuda::for_each<1>(cuda::RowShape(call.rows, call.channels).apart(),
                      [=] __device__(Index n, Index c, auto) {
                        A pre = call.bias ? call.bias[c] : A(0), e[kTaps];
#pragma unroll
                        for (int j = 0; j < kTaps; ++j) {
                          const bool there = j < call.taps;
                          e[j] = there ? call.input(n, n, n, call.past - j, c) : A(0);
                          pre = there ? fma(call.weight[c * call.taps + j], e[j], pre) : pre;
                        }
                        y.row(n)[c] = cuda::from_acc<T>(silu ? act::device_silu(pre) : pre);
#pragma unroll
                        for (int u = 0; u + 1 < kTaps; ++u) {
                          if (u < call.past) {
                            sT[(n * call.channels + c) * call.past + u] = e[u + 1];
                          }
                        }
                      });
  }
  /// run.operator()<width>(blocks, strip) with a thread for each strip of each pack of channels.
  template <class Run>
  static void on_strips(const Call<T>& call, Run run) {
    constexpr int kFour = 4;
    const Index strip = strip_of(call.rows, call.channels);
    const int width = call.channels % kFour == 0 ? kFour : 1;
    const Index threads = cuda::blocks_for(call.rows, strip) * (call.channels / width);
    const dim3 blocks(static_cast<unsigned>(cuda::blocks_for(threads, 256)));
    if (width == kFour) {
      run.template operator()<kFour>(blocks, strip);
    } else {
      run.template operator()<1>(blocks, strip);
    }
  }

  static void backward(const Op::In<TensorView>& in, const Op::Out<TensorView>&,
                       const Op::Out<TensorView>& dout, Op::In<TensorView>& din,
                       const Op::Attrs& a) {
    const Call<T> call(in);
    const bool many = call.taps > kTaps;
    const cuda::Scratch memory(many ? call.rows * call.channels * Index{sizeof(A)} : 0);
    const cuda::RowsIn<T> gy(dout.y);
    const A* const gsT = dout.sT.defined() ? dout.sT.data<A>() : nullptr;
    const Before<T> before{call, many ? memory.as<A>() : nullptr, gy, a.silu};
    if (many) {
      of_many_taps(before, gsT, memory.as<A>(), din);
    } else {
      of_strips(call, a.silu, gy, gsT, din);
    }
    if (din.s0.defined()) {
      state_gradient(before, gsT, din.s0);
    }
  }
  static void of_strips(const Call<T>& call, bool silu, const cuda::RowsIn<T>& gy, const A* gsT,
                        Op::In<TensorView>& din) {
    const Index d = call.channels;
    const Index strips = cuda::blocks_for(call.rows, strip_of(call.rows, d));
    const cuda::Scratch memory((strips + 1) * kSums * d * Index{sizeof(A)});
    A* const all = memory.as<A>();
    A* const sums = all + kSums * d;
    const cuda::RowsTo<T> gx(din.x);
    on_strips(call, [&]<int kWidth>(dim3 blocks, Index strip) {
      const bool fed =
          gy && feeds<T, kWidth>(call.x) && feeds<T, kWidth>(gy) && (!gx || gx.per_piece == 1);
      cuda::launch(silu ? &backward_kernel<T, kWidth, true> : &backward_kernel<T, kWidth, false>,
                   blocks, dim3(256), fed ? Feed<T, kWidth, 2>::kBytes : 0, call, strip, fed, gy,
                   gsT, gx, sums);
    });
    A* const gweight = din.weight.defined() ? din.weight.data<A>() : nullptr;
    A* const gbias = din.bias.defined() ? din.bias.data<A>() : nullptr;
    if (!gweight && !gbias) {
      return;
    }
    const Index columns = kSums * d, taps = call.taps;
    cuda::column_sums<1, A>(strips, columns, {{all}}, [=] __device__(Index s, Index i, A(&sum)[1]) {
      sum[0] = sums[s * columns + i];
    });
    cuda::for_each<1>(cuda::RowShape(kSums, d).apart(), [=] __device__(Index k, Index c, auto) {
      const Index tap = k - kTaps + taps;
      A* const to = k == kTaps            ? (gbias ? gbias + c : nullptr)
                    : gweight && tap >= 0 ? gweight + c * taps + tap
                                          : nullptr;
      if (to) {
        *to = all[k * d + c];
      }
    });
  }
  static void of_many_taps(const Before<T>& before, const A* gsT, A* dpre,
                           Op::In<TensorView>& din) {
    const Call<T>& call = before.call;
    const Index d = call.channels;
    Before<T> making = before;
    making.made = nullptr;
    cuda::for_each<1>(cuda::RowShape(call.rows, d).apart(), [=] __device__(Index t, Index c, auto) {
      dpre[t * d + c] = making.at(making.silu ? making.call.seqs.of(t) : 0, t, c);
    });
    const cuda::RowsTo<T> gx(din.x);
    if (gx) {
      cuda::for_each<1>(cuda::RowShape(call.rows, d).apart(),
                        [=] __device__(Index t, Index c, auto) {
                          const Index n = before.call.seqs.of(t);
                          const Index u = t - before.call.seqs.begin(n) + before.call.past;
                          gx.row(t)[c] = cuda::from_acc<T>(input_gradient(before, gsT, n, u, c));
                        });
    }
    if (din.weight.defined()) {
      cuda::column_sums<1, A>(call.rows, d * call.taps, {{din.weight.data<A>()}},
                              [=] __device__(Index t, Index i, A(&sum)[1]) {
                                const Index c = i / call.taps, back = call.past - i % call.taps;
                                const Index n = call.seqs.of(t);
                                sum[0] =
                                    dpre[t * d + c] * call.input(n, call.seqs.begin(n), t, back, c);
                              });
    }
    if (din.bias.defined()) {
      cuda::column_sums<1, A>(
          call.rows, d, {{din.bias.data<A>()}},
          [=] __device__(Index t, Index c, A(&sum)[1]) { sum[0] = dpre[t * d + c]; });
    }
  }
  /// Input u of sequence n, the carried ones first, is read by output e through tap u - e, and is
  /// element u - length of sT.
  __device__ static A input_gradient(const Before<T>& before, const A* gsT, Index n, Index u,
                                     Index c) {
    const Call<T>& call = before.call;
    const Index d = call.channels, begin = call.seqs.begin(n), length = call.seqs.end(n) - begin;
    const Index entry = call.seqs.stop(n), last = u - length;
    const bool read = gsT && entry >= 0 && last >= 0 && last < call.past;
    A sum = read ? gsT[(entry * d + c) * call.past + last] : A(0);
    for (Index j = 0; j < call.taps; ++j) {
      const Index e = u - j;
      if (e >= 0 && e < length) {
        sum += before.at(n, begin + e, c) * call.weight[c * call.taps + j];
      }
    }
    return sum;
  }
  static void state_gradient(const Before<T>& before, const A* gsT, TensorView& to) {
    const Call<T>& call = before.call;
    const Index each = call.channels * call.past;
    A* const gs0 = to.data<A>();
    cuda::for_each<1>(
        cuda::RowShape(to.size(0), each).apart(), [=] __device__(Index entry, Index i, auto) {
          const Index past = before.call.past;
          gs0[entry * each + i] = before.call.seqs.template over_starts<A>(
              entry, [&](Index n) { return input_gradient(before, gsT, n, i % past, i / past); });
        });
  }
};

LS_KERNEL(ShortConv)
    .on(DeviceType::kCuda)
    .reads("x y", lies::rows)
    .strided_grad("x")
    .kernel<Kernel, double, float, bf16>();

}  // namespace
}  // namespace ls::ops
