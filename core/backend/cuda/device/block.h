#pragma once
// Code of one block of threads that runs as a kernel and, with a block of one thread, on the host:
// work is dealt out by `each`, and what one thread writes another reads after `sync`.
#include <cmath>

#include "core/base/types.h"

#ifdef __CUDACC__
#define LS_ON_DEVICE __host__ __device__
#else
#define LS_ON_DEVICE
#endif

#ifdef __CUDA_ARCH__
#define LS_PRAGMA(text) _Pragma(#text)
#define LS_UNROLL(n) LS_PRAGMA(unroll n)
#else
#define LS_UNROLL(n)
#endif

namespace ls::cuda {

struct Block {
  Index x = 0, y = 0, z = 0;  ///< its place in the grid
  int thread = 0, threads = 1;

  LS_ON_DEVICE void sync() const {
#ifdef __CUDA_ARCH__
    __syncthreads();
#endif
  }
  /// f(i) for i from 0 to n, each by one thread; thread i % threads when threads divide n.
  template <class F>
  LS_ON_DEVICE void each(int n, F&& f) const {
    for (int i = thread; i < n; i += threads) {
      f(i);
    }
  }
};

/// Threads of most blocks.
inline constexpr int kBlock = 128;

/// Shared rows of W elements, one element apart, so that columns lie in different banks.
template <class A, int R, int W>
struct Tile {
  static constexpr int kRows = R, kWidth = W;
  A x[R][W + 1];
  LS_ON_DEVICE A& operator()(int i, int j) { return x[i][j]; }
  LS_ON_DEVICE const A& operator()(int i, int j) const { return x[i][j]; }
};

/// Block::each of N items, unrolled, so that what they load from memory is asked for together.
template <int N, class F>
LS_ON_DEVICE void each(const Block& block, F&& f) {
  if (block.threads != kBlock) {
    block.each(N, f);
    return;
  }
  static_assert(N % kBlock == 0);
  LS_UNROLL()
  for (int n = 0; n < N / kBlock; ++n) {
    f(block.thread + n * kBlock);
  }
}
/// tile(i, j) = f(i, j), likewise.
template <class A, int R, int W, class F>
LS_ON_DEVICE void fill(const Block& block, Tile<A, R, W>& tile, F&& f) {
  if (block.threads != kBlock) {
    block.each(R * W, [&](int e) { tile(e / W, e % W) = f(e / W, e % W); });
    return;
  }
  static_assert(R * W % kBlock == 0);
  A x[R * W / kBlock];
  LS_UNROLL()
  for (int n = 0; n < R * W / kBlock; ++n) {
    const int e = block.thread + n * kBlock;
    x[n] = f(e / W, e % W);
  }
  LS_UNROLL()
  for (int n = 0; n < R * W / kBlock; ++n) {
    const int e = block.thread + n * kBlock;
    tile(e / W, e % W) = x[n];
  }
}

/// emit(i, j, sum over k < K of x(i, k) y(k, j)) for i < M, j < N: 4 x 2 sums a thread.
template <class A, int M, int N, int K, class X, class Y, class Emit>
LS_ON_DEVICE void product(const Block& block, X&& x, Y&& y, Emit&& emit) {
  constexpr int kI = M / 4, kJ = N / 2;
  static_assert(M % 4 == 0 && N % 2 == 0);
  block.each(kI * kJ, [&](int e) {
    const int i = e % kI, j = e / kI;
    A sum[4][2] = {};
    LS_UNROLL(4)
    for (int k = 0; k < K; ++k) {
      const A y0 = y(k, j), y1 = y(k, j + kJ);
      LS_UNROLL()
      for (int r = 0; r < 4; ++r) {
        const A xr = x(i + r * kI, k);
        sum[r][0] += xr * y0;
        sum[r][1] += xr * y1;
      }
    }
    LS_UNROLL()
    for (int r = 0; r < 4; ++r) {
      emit(i + r * kI, j, sum[r][0]);
      emit(i + r * kI, j + kJ, sum[r][1]);
    }
  });
}

}  // namespace ls::cuda
