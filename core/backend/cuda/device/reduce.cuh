#pragma once
// Sums and maxima over the threads of a warp or a block, in an order that never changes.
#include "core/base/types.h"

namespace ls::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

struct Plus {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return a + b;
  }
};
/// NaN wins.
struct Greater {
  template <class A>
  __device__ A operator()(A a, A b) const {
    return a > b || a != a ? a : b;
  }
};

/// `kThreads` neighbouring threads that work on one row: a part of a warp, a warp, or a block.
template <int kThreads>
struct Team {
  static_assert(kThreads <= 1024 && (kThreads & (kThreads - 1)) == 0);
  static constexpr int kSize = kThreads;
  __device__ static int rank() { return static_cast<int>(threadIdx.x) % kThreads; }
  /// f(first) for every `kWidth` of n elements; those of one thread are far apart.
  template <int kWidth, class F>
  __device__ static void each(Index n, F f) {
    for (Index c = Index{rank()} * kWidth; c < n; c += Index{kThreads} * kWidth) {
      f(c);
    }
  }
  /// What its threads wrote before, all see afterwards.
  __device__ static void sync() {
    if (kThreads > 32) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  }
  /// All threads of the team call it, and all get the result.
  template <class A, class Op>
  __device__ static A all(A x, Op op) {
    constexpr int kLanes = kThreads < 32 ? kThreads : 32;
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
      x = op(x, __shfl_xor_sync(kAllLanes, x, step));
    }
    if constexpr (kThreads > 32) {
      constexpr int kWarps = kThreads / 32;
      __shared__ A of_warp[kWarps];
      const int warp = static_cast<int>(threadIdx.x) / 32;
      __syncthreads();  // those before may still be read
      if (threadIdx.x % 32 == 0) {
        of_warp[warp] = x;
      }
      __syncthreads();
      x = of_warp[0];
      for (int w = 1; w < kWarps; ++w) {
        x = op(x, of_warp[w]);
      }
    }
    return x;
  }
  template <class A>
  __device__ static A sum(A x) {
    return all(x, Plus());
  }
  template <class A>
  __device__ static A max(A x) {
    return all(x, Greater());
  }
};

}  // namespace ls::cuda
