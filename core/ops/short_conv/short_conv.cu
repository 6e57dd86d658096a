// A thread takes some neighbouring channels of a strip of tokens and slides a window of inputs
// along it, so that each input is read once. Backward makes the gradient before the activation
// first, in acc, with sums for weight and bias of each strip; a second pass slides along that. More
// taps than kTaps: elementwise, the taps from cache.
//   x, y [tokens, D]   weight [D, W]   s0 [N, D, W-1]   sT [B, D, W-1]
//   dpre [tokens, D]
#include "core/ops/short_conv/short_conv.h"

#include "core/backend/cuda/device/rows.cuh"
#include "core/op/op.h"
#include "core/ops/common/activations.cuh"
#include "core/ops/common/sequences.cuh"

namespace ls::ops {
namespace {

using Op = ShortConv;

constexpr int kTaps = 4, kSums = kTaps + 1;

template <class T>
struct Call {
  using A = acc_t<T>;
  explicit Call(const Op::In<TensorView>& in)
      : x(in.x),
        weight(in.weight.data<A>()),
        bias(in.bias.defined() ? in.bias.data<A>() : nullptr),
        s0(in.s0.defined() ? in.s0.data<A>() : nullptr),
        entries(s0 ? in.s0.size(0) : 0),
        seqs(in.x.size(0), in.x.size(1), in.offsets),
        rows(in.x.size(0) * in.x.size(1)),
        channels(in.weight.size(0)),
        taps(in.weight.size(1)),
        past(taps - 1) {
    static const std::int32_t kBadOffset = error_source("short_conv: offsets");
    seqs.check(kBadOffset);
  }
  /// Channel c of the input `back` tokens before token t of sequence n, which begins at `begin`; 0
  /// further back than the carried ones.
  __device__ A input(Index n, Index begin, Index t, Index back, Index c) const {
    const Index at = t - back;
    if (at >= begin) {
      return cuda::to_acc<A>(x.row(at)[c]);
    }
    const Index entry = seqs.start(n), u = at - begin + past;
    return entry < entries && u >= 0 ? s0[(entry * channels + c) * past + u] : A(0);
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
  Index entries;  ///< of s0
  common::DeviceSequences seqs;
  Index rows, channels, taps, past;
};

/// Tokens of a strip: a function of sizes alone, since sums of weights are cut by it.
Index strip_of(Index rows, Index channels) {
  constexpr Index kElements = Index{1} << 19, kShortest = 8, kLongest = 64;
  return std::clamp(rows * channels / kElements, kShortest, kLongest);
}

/// What a thread has of its channels: the last kTaps taps, and as many inputs up to its token.
template <class T, int kWidth>
struct Window {
  using A = acc_t<T>;
  A weight[kTaps][kWidth], bias[kWidth], x[kTaps][kWidth];
  Index n, end;  ///< sequence, and its end

  __device__ Window(const Call<T>& call, Index t, Index c) {
    for (int i = 0; i < kWidth; ++i) {
      bias[i] = call.bias ? call.bias[c + i] : A(0);
      for (int j = 0; j < kTaps; ++j) {
        const Index tap = j - kTaps + call.taps;
        weight[j][i] = tap >= 0 ? call.weight[(c + i) * call.taps + tap] : A(0);
      }
    }
    n = call.seqs.of(t);
    end = call.seqs.end(n);
    fill(call, call.seqs.begin(n), t, c);
  }
  __device__ void fill(const Call<T>& call, Index begin, Index t, Index c) {
    for (int j = 0; j + 1 < kTaps; ++j) {
      for (int i = 0; i < kWidth; ++i) {
        x[j][i] = call.input(n, begin, t, kTaps - 1 - j, c + i);
      }
    }
  }
  /// Takes token t in.
  __device__ void take(const Call<T>& call, Index t, Index c) {
    if (t >= end) {
      while (t >= end && n + 1 < call.seqs.count) {
        end = call.seqs.end(++n);
      }
      fill(call, t, t, c);
    }
    cuda::load(call.x.row(t) + c, x[kTaps - 1]);
  }
  __device__ A before_activation(int i) const {
    A sum = bias[i];
    for (int j = 0; j < kTaps; ++j) {
      sum += weight[j][i] * x[j][i];
    }
    return sum;
  }
  __device__ void shift() {
    for (int j = 0; j + 1 < kTaps; ++j) {
      for (int i = 0; i < kWidth; ++i) {
        x[j][i] = x[j + 1][i];
      }
    }
  }
};

/// First channel and strip of a thread; false where there is none.
template <int kWidth>
__device__ bool place_of(Index rows, Index channels, Index strip, Index& c, Index& first,
                         Index& end) {
  const Index packs = channels / kWidth, i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  c = i % packs * kWidth;
  first = i / packs * strip;
  end = first + strip < rows ? first + strip : rows;
  return first < rows;
}

template <class T, int kWidth>
__global__ void __launch_bounds__(256)
    forward_kernel(Call<T> call, Index strip, bool silu, cuda::RowsTo<T> y) {
  using A = acc_t<T>;
  Index c = 0, first = 0, end = 0;
  if (!place_of<kWidth>(call.rows, call.channels, strip, c, first, end)) {
    return;
  }
  Window<T, kWidth> window(call, first, c);
  for (Index t = first; t < end; ++t) {
    window.take(call, t, c);
    A to[kWidth];
    for (int i = 0; i < kWidth; ++i) {
      const A pre = window.before_activation(i);
      to[i] = silu ? act::device_silu(pre) : pre;
    }
    cuda::store(y.row(t) + c, to);
    window.shift();
  }
}

/// dpre, and of each strip the sums [strip, tap or bias, D] for weight and bias.
template <class T, int kWidth>
__global__ void __launch_bounds__(256)
    before_kernel(Call<T> call, Index strip, bool silu, cuda::RowsIn<T> gy, acc_t<T>* dpre,
                  acc_t<T>* sums) {
  using A = acc_t<T>;
  Index c = 0, first = 0, end = 0;
  if (!place_of<kWidth>(call.rows, call.channels, strip, c, first, end)) {
    return;
  }
  Window<T, kWidth> window(call, first, c);
  A sum[kSums][kWidth] = {};
  for (Index t = first; t < end; ++t) {
    window.take(call, t, c);
    A g[kWidth] = {};
    if (gy) {
      cuda::load(gy.row(t) + c, g);
    }
    for (int i = 0; i < kWidth; ++i) {
      g[i] *= silu ? act::device_silu_slope(window.before_activation(i)) : A(1);
      for (int j = 0; j < kTaps; ++j) {
        sum[j][i] += g[i] * window.x[j][i];
      }
      sum[kTaps][i] += g[i];
    }
    cuda::store(dpre + t * call.channels + c, g);
    window.shift();
  }
  for (int k = 0; k < kSums; ++k) {
    cuda::store(sums + (first / strip * kSums + k) * call.channels + c, sum[k]);
  }
}

/// dx_t = sum over taps of weight_j dpre_{t + W-1-j} within the sequence, and what sT hands back.
/// The strip is walked from its end.
template <class T, int kWidth>
__global__ void __launch_bounds__(256) after_kernel(Call<T> call, Index strip, const acc_t<T>* dpre,
                                                    const acc_t<T>* gsT, cuda::RowsTo<T> gx) {
  using A = acc_t<T>;
  Index c = 0, first = 0, end = 0;
  if (!place_of<kWidth>(call.rows, call.channels, strip, c, first, end)) {
    return;
  }
  Window<T, kWidth> window(call, end - 1, c);
  // x is the window of dpre: token t at kTaps - 1, those behind it below.
  const auto fill = [&](Index t) {
    for (int j = 0; j + 1 < kTaps; ++j) {
      const Index at = t + kTaps - 1 - j;
      for (int i = 0; i < kWidth; ++i) {
        window.x[j][i] = at < window.end ? dpre[at * call.channels + c + i] : A(0);
      }
    }
  };
  fill(end - 1);
  for (Index t = end - 1; t >= first; --t) {
    while (window.n > 0 && t < call.seqs.begin(window.n)) {
      window.end = call.seqs.end(--window.n);
      fill(t);
    }
    cuda::load(dpre + t * call.channels + c, window.x[kTaps - 1]);
    A to[kWidth];
    const Index entry = call.seqs.stop(window.n), u = t - window.end + call.past;
    const bool read = gsT && entry >= 0 && u >= 0 && u < call.past;
    for (int i = 0; i < kWidth; ++i) {
      to[i] = read ? gsT[(entry * call.channels + c + i) * call.past + u] : A(0);
      for (int j = 0; j < kTaps; ++j) {
        to[i] += window.weight[j][i] * window.x[j][i];
      }
    }
    cuda::store(gx.row(t) + c, to);
    window.shift();
  }
}

template <class T>
struct Kernel {
  using A = acc_t<T>;
  static void forward(const Op::In<TensorView>& in, Op::Out<TensorView>& out, const Op::Attrs& a) {
    const Call<T> call(in);
    const cuda::RowsTo<T> y(out.y);
    const bool silu = a.silu;
    if (call.taps > kTaps) {
      cuda::for_each<1>(cuda::RowShape(call.rows, call.channels).apart(),
                        [=] __device__(Index t, Index c, auto) {
                          const Index n = call.seqs.of(t);
                          const A pre = call.before_activation(n, call.seqs.begin(n), t, c);
                          y.row(t)[c] = cuda::from_acc<T>(silu ? act::device_silu(pre) : pre);
                        });
    } else {
      on_strips(call, [&]<int kWidth>(dim3 blocks, Index strip) {
        cuda::launch(&forward_kernel<T, kWidth>, blocks, dim3(256), 0, call, strip, silu, y);
      });
    }
    A* const sT = out.sT.data<A>();
    cuda::for_each<1>(cuda::RowShape(call.seqs.batch, call.channels * call.past).apart(),
                      [=] __device__(Index row, Index i, auto) {
                        const Index c = i / call.past, u = i % call.past;
                        const Index n = call.seqs.last_of(row);
                        const Index begin = call.seqs.begin(n), end = call.seqs.end(n);
                        sT[row * call.channels * call.past + i] =
                            call.input(n, begin, end, call.past - u, c);
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
    const cuda::Scratch memory(call.rows * call.channels * Index{sizeof(A)});
    A* const dpre = memory.as<A>();
    const cuda::RowsIn<T> gy(dout.y);
    const A* const gsT = dout.sT.defined() ? dout.sT.data<A>() : nullptr;
    if (call.taps > kTaps) {
      of_many_taps(call, a.silu, gy, gsT, dpre, din);
    } else {
      of_strips(call, a.silu, gy, gsT, dpre, din);
    }
    if (din.s0.defined()) {
      state_gradient(call, dpre, gsT, din.s0);
    }
  }
  static void of_strips(const Call<T>& call, bool silu, const cuda::RowsIn<T>& gy, const A* gsT,
                        A* dpre, Op::In<TensorView>& din) {
    const Index d = call.channels;
    const Index strips = cuda::blocks_for(call.rows, strip_of(call.rows, d));
    const cuda::Scratch memory(strips * kSums * d * Index{sizeof(A)});
    A* const sums = memory.as<A>();
    const cuda::RowsTo<T> gx(din.x);
    on_strips(call, [&]<int kWidth>(dim3 blocks, Index strip) {
      cuda::launch(&before_kernel<T, kWidth>, blocks, dim3(256), 0, call, strip, silu, gy, dpre,
                   sums);
      if (gx) {
        cuda::launch(&after_kernel<T, kWidth>, blocks, dim3(256), 0, call, strip,
                     static_cast<const A*>(dpre), gsT, gx);
      }
    });
    A* const gweight = din.weight.defined() ? din.weight.data<A>() : nullptr;
    A* const gbias = din.bias.defined() ? din.bias.data<A>() : nullptr;
    const Index taps = call.taps;
    cuda::for_each<1>(cuda::RowShape(kSums, d).apart(), [=] __device__(Index k, Index c, auto) {
      const Index tap = k - kTaps + taps;
      A* const to = k == kTaps            ? (gbias ? gbias + c : nullptr)
                    : gweight && tap >= 0 ? gweight + c * taps + tap
                                          : nullptr;
      A sum = 0;
      for (Index s = 0; to && s < strips; ++s) {
        sum += sums[(s * kSums + k) * d + c];
      }
      if (to) {
        *to = sum;
      }
    });
  }
  static void of_many_taps(const Call<T>& call, bool silu, const cuda::RowsIn<T>& gy, const A* gsT,
                           A* dpre, Op::In<TensorView>& din) {
    const Index d = call.channels;
    cuda::for_each<1>(cuda::RowShape(call.rows, d).apart(), [=] __device__(Index t, Index c, auto) {
      A g = gy ? cuda::to_acc<A>(gy.row(t)[c]) : A(0);
      if (silu && gy) {
        const Index n = call.seqs.of(t);
        g *= act::device_silu_slope(call.before_activation(n, call.seqs.begin(n), t, c));
      }
      dpre[t * d + c] = g;
    });
    const cuda::RowsTo<T> gx(din.x);
    if (gx) {
      cuda::for_each<1>(
          cuda::RowShape(call.rows, d).apart(), [=] __device__(Index t, Index c, auto) {
            const Index n = call.seqs.of(t);
            const Index u = t - call.seqs.begin(n) + call.past;
            gx.row(t)[c] = cuda::from_acc<T>(input_gradient(call, dpre, gsT, n, u, c));
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
  __device__ static A input_gradient(const Call<T>& call, const A* dpre, const A* gsT, Index n,
                                     Index u, Index c) {
    const Index d = call.channels, begin = call.seqs.begin(n), length = call.seqs.end(n) - begin;
    const Index entry = call.seqs.stop(n), last = u - length;
    const bool read = gsT && entry >= 0 && last >= 0 && last < call.past;
    A sum = read ? gsT[(entry * d + c) * call.past + last] : A(0);
    for (Index j = 0; j < call.taps; ++j) {
      const Index e = u - j;
      if (e >= 0 && e < length) {
        sum += dpre[(begin + e) * d + c] * call.weight[c * call.taps + j];
      }
    }
    return sum;
  }
  static void state_gradient(const Call<T>& call, const A* dpre, const A* gsT, TensorView& to) {
    const Index each = call.channels * call.past;
    A* const gs0 = to.data<A>();
    cuda::for_each<1>(
        cuda::RowShape(to.size(0), each).apart(), [=] __device__(Index entry, Index i, auto) {
          gs0[entry * each + i] = call.seqs.template over_starts<A>(entry, [&](Index n) {
            return input_gradient(call, dpre, gsT, n, i % call.past, i / call.past);
          });
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
