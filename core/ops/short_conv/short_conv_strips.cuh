#pragma once
// Passes over strips of tokens, of few taps: see short_conv.cu.
#include "core/backend/cuda/device/rows.cuh"
#include "core/ops/common/activations.cuh"
#include "core/ops/common/sequences.cuh"
#include "core/ops/short_conv/short_conv.h"

namespace ls::ops::strips {

using Op = ShortConv;

inline constexpr int kTaps = 4, kSums = kTaps + 1;

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
inline Index strip_of(Index rows, Index channels) {
  constexpr Index kElements = Index{1} << 19, kShortest = 8, kLongest = 256;
  return std::clamp(rows * channels / kElements, kShortest, kLongest);
}

/// Tokens that a thread takes at once.
inline constexpr int kBatch = 4;

/// What a thread has of its channels: taps, the inputs before its token, and where the token is.
template <class T, int kWidth>
struct Window {
  using A = acc_t<T>;
  A weight[kTaps][kWidth], bias[kWidth];
  A x[kTaps - 1 + kBatch][kWidth];  ///< the inputs before, then those of a batch
  Index n, begin, end;              ///< the sequence

  __device__ Window(const Call<T>& call, Index t, Index c) {
    for (int i = 0; i < kWidth; ++i) {
      bias[i] = call.bias ? call.bias[c + i] : A(0);
      for (int j = 0; j < kTaps; ++j) {
        const Index tap = j - kTaps + call.taps;
        weight[j][i] = tap >= 0 ? call.weight[(c + i) * call.taps + tap] : A(0);
      }
    }
    n = call.seqs.of(t);
    enter(call, t, c);
  }
  /// Sequence n at its token t.
  __device__ void enter(const Call<T>& call, Index t, Index c) {
    begin = call.seqs.begin(n);
    end = call.seqs.end(n);
    for (int j = 0; j + 1 < kTaps; ++j) {
      for (int i = 0; i < kWidth; ++i) {
        x[j][i] = call.input(n, begin, t, kTaps - 1 - j, c + i);
      }
    }
  }
  /// The sequence that token t, the first behind this one, is in. Bad offsets end anywhere: then
  /// the last one goes on.
  __device__ void next(const Call<T>& call, Index t, Index c) {
    while (n + 1 < call.seqs.count && call.seqs.end(n) <= t) {
      ++n;
    }
    enter(call, t, c);
    end = end > t ? end : call.rows;
  }
  /// `count` tokens from t on come behind the inputs before.
  __device__ void take(const Call<T>& call, Index t, int count, Index c) {
    cuda::Pack<T, kWidth> packs[kBatch];
#pragma unroll
    for (int e = 0; e < kBatch; ++e) {
      packs[e] = cuda::load_pack<kWidth>(call.x.row(e < count ? t + e : t) + c);
    }
#pragma unroll
    for (int e = 0; e < kBatch; ++e) {
      cuda::unpack(packs[e], x[kTaps - 1 + e]);
    }
  }
  __device__ A before_activation(int e, int i) const {
    A sum = bias[i];
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      sum = fma(weight[j][i], x[e + j][i], sum);
    }
    return sum;
  }
};

/// What a thread will read of its rows, some batches ahead: kStreams operands, kBatch tokens each.
template <class T, int kWidth, int kStreams>
class Feed {
 public:
  using Piece = cuda::Pack<T, kWidth>;
  static constexpr int kDepth = 3, kThreads = 256;
  /// Copies go beside the work in pieces of 8 or 16 bytes.
  static constexpr bool kServes = sizeof(Piece) == 8 || sizeof(Piece) == 16;
  static constexpr int kBytes = kServes ? kDepth * kStreams * kBatch * kThreads * sizeof(Piece) : 0;

  __device__ explicit Feed(unsigned char* shared) : all_(reinterpret_cast<Piece*>(shared)) {}
  /// Batch b of a stream, whose token e begins at `first` + e `apart`; `there`: else nothing.
  __device__ void ask(int b, int stream, const T* first, Index apart, bool there) const {
#pragma unroll
    for (int e = 0; e < kBatch; ++e) {
      if (there) {
        const auto to = static_cast<unsigned>(__cvta_generic_to_shared(&at(b, stream, e)));
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(first + e * apart),
                     "n"(static_cast<int>(sizeof(Piece)))
                     : "memory");
      }
    }
  }
  /// Ends what was asked for of one batch.
  __device__ static void close() {
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  /// All but the batches of the last kDepth - 1 are there.
  __device__ static void wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kDepth - 1) : "memory");
  }
  __device__ Piece& at(int b, int stream, int e) const {
    return all_[((b % kDepth * kStreams + stream) * kBatch + e) * kThreads + threadIdx.x];
  }

 private:
  Piece* all_;
};
/// Whether a Feed may read these rows: every piece lies on a multiple of its size.
template <class T, int kWidth>
bool feeds(const cuda::RowsIn<T>& rows) {
  return reinterpret_cast<std::uintptr_t>(rows.base) % (sizeof(T) * kWidth) == 0 &&
         rows.stride % kWidth == 0;
}

/// The first rows of a window become those `count` further on, at most kBatch.
template <class A, int kRows, int kWidth>
__device__ __forceinline__ void move_on(A (&rows)[kRows][kWidth], int count) {
#pragma unroll
  for (int step = 1; step <= kBatch; ++step) {
    if (step == count) {
#pragma unroll
      for (int j = 0; j + kBatch < kRows; ++j) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          rows[j][i] = rows[j + step][i];
        }
      }
    }
  }
}
__device__ __forceinline__ int least(Index a, Index b) {
  return static_cast<int>(a < b ? a : b);
}

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

template <class T, int kWidth, bool kSilu>
__global__ void __launch_bounds__(256, sizeof(T) > 4 ? 1 : 3)
    forward_kernel(Call<T> call, Index strip, bool fed, cuda::RowsTo<T> y) {
  using A = acc_t<T>;
  using Ahead = Feed<T, kWidth, 1>;
  extern __shared__ __align__(16) unsigned char shared[];
  Index c = 0, first = 0, end = 0;
  if (!place_of<kWidth>(call.rows, call.channels, strip, c, first, end)) {
    return;
  }
  Window<T, kWidth> window(call, first, c);
  const auto put = [&](T* to_row, int e) {
    A to[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const A pre = window.before_activation(e, i);
      to[i] = kSilu ? act::device_silu(pre) : pre;
    }
    cuda::store(to_row, to);
  };
  Index t = first;
  while (t < end) {
    if (t >= window.end) {
      window.next(call, t, c);
    }
    const Index stop = window.end < end ? window.end : end;
    if constexpr (Ahead::kServes) {
      const int batches = fed ? static_cast<int>((stop - t) / kBatch) : 0;
      const Ahead feed(shared);
      const T* from = call.x.row(t) + c;
      const Index apart = call.x.stride;
      for (int b = 0; b < Ahead::kDepth && batches > 0; ++b, from += kBatch * apart) {
        feed.ask(b, 0, from, apart, b < batches);
        Ahead::close();
      }
      for (int b = 0; b < batches; ++b, from += kBatch * apart) {
        Ahead::wait();
#pragma unroll
        for (int e = 0; e < kBatch; ++e) {
          cuda::unpack(feed.at(b, 0, e), window.x[kTaps - 1 + e]);
          put(y.row(t + e) + c, e);
        }
        feed.ask(b, 0, from, apart, b + Ahead::kDepth < batches);
        Ahead::close();
        move_on(window.x, kBatch);
        t += kBatch;
      }
      if (t >= stop) {
        continue;
      }
    }
    const int count = least(kBatch, stop - t);
    window.take(call, t, count, c);
#pragma unroll
    for (int e = 0; e < kBatch; ++e) {
      if (e < count) {
        put(y.row(t + e) + c, e);
      }
    }
    move_on(window.x, count);
    t += count;
  }
}

/// What backward has of its channels besides the window: gradients before the activation, and sums
/// for weight and bias.
template <class A, int kWidth, bool kSilu>
struct Slopes {
  static constexpr int kBefore = kTaps - 1;
  A sum[kSums][kWidth] = {};
  A dpre[kBefore + kBatch][kWidth] = {};  // of the tokens before, then of a batch

  /// Token e of a batch, whose gradient is g; `there`: else it has none; `own`: it is summed.
  template <class T>
  __device__ void take(const Window<T, kWidth>& window, int e, bool there, bool own,
                       A (&g)[kWidth]) {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      g[i] *= kSilu ? act::device_silu_slope(window.before_activation(e, i)) : A(1);
      dpre[kBefore + e][i] = there ? g[i] : A(0);
      g[i] = own ? g[i] : A(0);
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        sum[j][i] = fma(g[i], window.x[e + j][i], sum[j][i]);
      }
      sum[kTaps][i] += g[i];
    }
  }
  /// Adds to `to` the gradient of the input kBefore tokens before token e.
  template <class T>
  __device__ void through_taps(const Window<T, kWidth>& window, int e, A (&to)[kWidth]) const {
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
#pragma unroll
      for (int j = 0; j < kTaps; ++j) {
        to[i] = fma(window.weight[j][i], dpre[e + kBefore - j][i], to[i]);
      }
    }
  }
};

/// Gradients: those of x, and of each strip the sums [strip, tap or bias, D] for weight and bias.
/// dx_t = sum over taps of weight_j dpre_{t + W-1-j} within the sequence, and what sT hands back.
/// So a strip makes dpre of kTaps - 1 tokens more than its own. `fed`: x and gy are read ahead,
/// and rows of gx are equally far apart.
template <class T, int kWidth, bool kSilu>
__global__ void __launch_bounds__(256, sizeof(T) > 4 ? 1 : 2)
    backward_kernel(Call<T> call, Index strip, bool fed, cuda::RowsIn<T> gy, const acc_t<T>* gsT,
                    cuda::RowsTo<T> gx, acc_t<T>* sums) {
  using A = acc_t<T>;
  using Ahead = Feed<T, kWidth, 2>;
  extern __shared__ __align__(16) unsigned char shared[];
  Index c = 0, first = 0, end = 0;
  if (!place_of<kWidth>(call.rows, call.channels, strip, c, first, end)) {
    return;
  }
  constexpr int kBefore = kTaps - 1;
  Window<T, kWidth> window(call, first, c);
  Slopes<A, kWidth, kSilu> slopes;
  const auto emit = [&](Index at, int e, bool last) {
    if (!gx || at < first || at < window.begin || at >= end) {
      return;
    }
    const Index entry = last ? call.seqs.stop(window.n) : -1, u = at - window.end + call.past;
    A to[kWidth];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const bool handed = last && gsT && entry >= 0 && u >= 0;
      to[i] = handed ? gsT[(entry * call.channels + c + i) * call.past + u] : A(0);
    }
    slopes.through_taps(window, e, to);
    cuda::store(gx.row(at) + c, to);
  };
  const Index limit = end + kBefore < call.rows ? end + kBefore : call.rows;
  Index t = first;
  while (t < limit) {
    if (t >= window.end) {
      if (t >= end) {
        break;
      }
      window.next(call, t, c);
    }
    if constexpr (Ahead::kServes) {
      // Whole batches of the strip's own tokens, but the first of the strip or of a sequence.
      const Index stop = window.end < end ? window.end : end;
      const bool inside = fed && t >= first + kBefore && t >= window.begin + kBefore;
      const int batches = inside && stop > t ? static_cast<int>((stop - t) / kBatch) : 0;
      if (batches > 0) {
        const Ahead feed(shared);
        const T *x = call.x.row(t) + c, *g = gy.row(t) + c;
        T* to_row = gx ? gx.row(t - kBefore) + c : nullptr;
        const auto ask = [&](int b) {
          const bool there = b < batches;
          feed.ask(b, 0, x, call.x.stride, there);
          feed.ask(b, 1, g, gy.stride, there);
          Ahead::close();
          x += kBatch * call.x.stride;
          g += kBatch * gy.stride;
        };
        for (int b = 0; b < Ahead::kDepth; ++b) {
          ask(b);
        }
        for (int b = 0; b < batches; ++b) {
          Ahead::wait();
#pragma unroll
          for (int e = 0; e < kBatch; ++e) {
            A dy[kWidth], to[kWidth] = {};
            cuda::unpack(feed.at(b, 0, e), window.x[kBefore + e]);
            cuda::unpack(feed.at(b, 1, e), dy);
            slopes.take(window, e, true, true, dy);
            slopes.through_taps(window, e, to);
            if (gx) {
              cuda::store(to_row + e * gx.stride, to);
            }
          }
          ask(b + Ahead::kDepth);
          to_row += kBatch * gx.stride;
          move_on(window.x, kBatch);
          move_on(slopes.dpre, kBatch);
          t += kBatch;
        }
      }
      if (batches > 0 && t < window.end) {
        continue;
      }
    }
    const int count =
        t < window.end ? least(kBatch, (window.end < limit ? window.end : limit) - t) : 0;
    if (count > 0) {
      cuda::Pack<T, kWidth> packs[kBatch];
#pragma unroll
      for (int e = 0; e < kBatch; ++e) {
        if (gy) {
          packs[e] = cuda::load_pack<kWidth>(gy.row(e < count ? t + e : t) + c);
        }
      }
      window.take(call, t, count, c);
#pragma unroll
      for (int e = 0; e < kBatch; ++e) {
        A g[kWidth] = {};
        if (gy) {
          cuda::unpack(packs[e], g);
        }
        slopes.take(window, e, e < count, e < count && t + e < end, g);
        if (e < count) {
          emit(t + e - kBefore, e, false);
        }
      }
      move_on(window.x, count);
      move_on(slopes.dpre, count);
      t += count;
    }
    if (t == window.end) {
#pragma unroll
      for (int e = 0; e < kBatch; ++e) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          slopes.dpre[kBefore + e][i] = 0;
        }
      }
#pragma unroll
      for (int e = 0; e < kBefore; ++e) {
        emit(t + e - kBefore, e, true);
      }
#pragma unroll
      for (int j = 0; j < kBefore; ++j) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          slopes.dpre[j][i] = 0;
        }
      }
    }
  }
  for (int k = 0; k < kSums; ++k) {
    cuda::store(sums + (first / strip * kSums + k) * call.channels + c, slopes.sum[k]);
  }
}

}  // namespace ls::ops::strips
