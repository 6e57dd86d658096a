#pragma once
// What the passes of attention on tensor cores share. A block owns rows (queries, or keys in the
// pass of their gradients), 16 or 32 a warp, and goes over tiles of the others, which cp.async
// brings into one of two stages while the tile before is worked on. Scores never leave registers:
// what a product leaves there is the left operand of the next one. Sums are f32.
#include "core/backend/cuda/device/warp_products.cuh"
#include "core/backend/cuda/launch.h"
#include "core/ops/attention/attention_flash_passes.cuh"

namespace ls::ops::attention::flash {

using cuda::kPitch;
using cuda::kStep;
using cuda::Left;
using cuda::Right;

/// Keys that a query sees: [low, high) and [first, prefix).
struct Limits {
  int low, high, first, prefix;
  __device__ bool visible(int j) const {
    return (low <= j && j < high) || (first <= j && j < prefix);
  }
};

/// What holds for the queries of a block or tile together.
struct Reach {
  int low, high, first, prefix;  ///< the widest limits of queries that see something
  int most_low, least_high;      ///< what all of them see
  __device__ void clear() {
    low = first = 0x7fffffff;
    high = prefix = -1;
    most_low = -1;
    least_high = 0x7fffffff;
  }
  __device__ void add(const Limits& x) {
    if (x.low < x.high) {
      atomicMin(&low, x.low);
      atomicMax(&high, x.high);
    }
    if (x.first < x.prefix) {
      atomicMin(&first, x.first);
      atomicMax(&prefix, x.prefix);
    }
    atomicMax(&most_low, x.low);
    atomicMin(&least_high, x.high);
  }
  /// Some pair with the keys j .. j + n - 1 may be visible; all are.
  __device__ bool any(int j, int n) const {
    return (j < high && j + n > low) || (j < prefix && j + n > first);
  }
  __device__ bool all(int j, int n) const { return most_low <= j && j + n <= least_high; }
  __device__ int begin() const { return min(low, first); }
  __device__ int end() const { return max(high, prefix); }
};

/// A call as one block sees it: row b, key head kh.
template <class T>
struct Here {
  const Call<T>& call;
  const Extra& extra;
  const int b, kh, rows, group, cached, keys;

  __device__ Here(const Call<T>& c, const Extra& e, int row, int head)
      : Here(c, e, row, head, static_cast<int>(c.group)) {}
  /// Of a query head alone: group 1.
  __device__ Here(const Call<T>& c, const Extra& e, int row, int head, int heads_of_key)
      : call(c),
        extra(e),
        b(row),
        kh(head),
        rows(e.rows),
        group(heads_of_key),
        cached(static_cast<int>(c.cached())),
        keys(static_cast<int>(c.keys())) {}
  __device__ int token(int r) const { return group == 1 ? r : r / group; }
  __device__ int head(int r) const { return group == 1 ? kh : kh * group + r % group; }
  __device__ int position(int t) const { return t + cached + static_cast<int>(call.q_offset); }
  /// Of query rows; `first` and `end` of its document. Rows behind the last one see nothing.
  __device__ Limits limits(int r) const {
    if (r >= rows) {
      return {0, 0, 0, 0};
    }
    const int t = token(r);
    int2 own = make_int2(0, keys);
    if (extra.bounds) {
      own = extra.bounds[static_cast<int64_t>(b) * call.queries + t];
    }
    return within(t, own);
  }
  __device__ Limits within(int t, int2 own) const {
    const int at = position(t), window = static_cast<int>(call.window);
    Limits x;
    x.first = max(own.x, 0);
    x.low = window > 0 ? max(x.first, at - window + 1) : x.first;
    x.high = call.causal ? min(own.y, at + 1) : own.y;
    x.prefix = min(own.y, static_cast<int>(call.prefix));
    return x;
  }
  template <class P>
  __device__ P* row(const Rows<P>& x, int r) const {
    return x.at(b, token(r), head(r));
  }
  /// Of statistics and such.
  __device__ int64_t place(int r) const {
    const int64_t heads = call.q_heads / group;
    return (b * heads + kh) * extra.stride + r;
  }
};

/// Row i of a tile by pieces of 16 bytes, kThreads threads: a thread has one piece of every
/// kThreads / kPieces-th row. What lies behind d elements, and rows that are null, become zeros.
template <class T, int kD, int kRows, int kThreads>
struct Pieces {
  static constexpr int kElements = 16 / static_cast<int>(sizeof(T));
  static constexpr int kPieces = kD / kElements, kStride = kThreads / kPieces;
  static constexpr int kEach = (kRows + kStride - 1) / kStride;
  static_assert(kThreads % kPieces == 0);
  int row = static_cast<int>(threadIdx.x) / kPieces;
  int first = static_cast<int>(threadIdx.x) % kPieces * kElements;  ///< element
  int there;                                                        ///< elements of the piece
  __device__ explicit Pieces(int d) : there(min(max(d - first, 0), kElements)) {}

  /// f(n, row): the n-th of this thread.
  template <class F>
  __device__ void each(F f) const {
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      if (kRows % kStride == 0 || row + n * kStride < kRows) {
        f(n, row + n * kStride);
      }
    }
  }
  __device__ unsigned char* in(unsigned char* tile, int i) const {
    return tile + i * kPitch<T, kD> + first * static_cast<int>(sizeof(T));
  }
  __device__ void bring_slowly(unsigned char* to, const T* from) const {
    alignas(16) T x[kElements];
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      x[i] = from && i < there ? from[first + i] : T(0.0f);
    }
    *reinterpret_cast<uint4*>(to) = *reinterpret_cast<uint4*>(x);
  }
  /// row(i) gives where row i lies, or null.
  template <class Row>
  __device__ void bring(unsigned char* tile, bool pieces, Row at) const {
    each([&](int, int i) {
      const T* const from = at(i);
      if (pieces) {
        const int bytes = from ? there * static_cast<int>(sizeof(T)) : 0;
        cuda::copy_piece(cuda::smem_addr(in(tile, i)), bytes > 0 ? from + first : nullptr, bytes);
      } else {
        bring_slowly(in(tile, i), from);
      }
    });
  }
  /// Row i lies at base + i stride, up to row `count`.
  __device__ void bring(unsigned char* tile, bool pieces, const T* base, int64_t stride,
                        int count) const {
    if (!pieces) {
      bring(tile, false, [&](int i) { return i < count ? base + i * stride : nullptr; });
      return;
    }
    const uint32_t to = cuda::smem_addr(in(tile, row));
    const T* from = base + row * stride + (there > 0 ? first : 0);
    each([&](int n, int i) {
      const int bytes = i < count ? there * static_cast<int>(sizeof(T)) : 0;
      cuda::copy_piece(to + static_cast<uint32_t>(n * kStride * kPitch<T, kD>),
                       bytes > 0 ? from : nullptr, bytes);
      from += kStride * stride;
    });
  }
};
template <class T, int kD, int kRows, int kThreads>
__device__ __forceinline__ void bring_queries(unsigned char* tile, const Here<T>& at,
                                              const Rows<const T>& x, int r0, int d, bool pieces) {
  const Pieces<T, kD, kRows, kThreads> mine(d);
  if (x && at.group == 1) {
    mine.bring(tile, pieces, x.at(at.b, r0, at.kh), x.t, at.rows - r0);
    return;
  }
  mine.bring(tile, pieces, [&](int i) -> const T* {
    return x && r0 + i < at.rows ? at.row(x, r0 + i) : nullptr;
  });
}
/// Keys j0 .. of the cache and those behind it.
template <class T, int kD, int kRows, int kThreads>
__device__ __forceinline__ void bring_keys(unsigned char* tile, const Here<T>& at,
                                           const Rows<const T>& cache, const Rows<const T>& own,
                                           int j0, int d, bool pieces) {
  const Pieces<T, kD, kRows, kThreads> mine(d);
  if (j0 >= at.cached) {
    mine.bring(tile, pieces, own.at(at.b, j0 - at.cached, at.kh), own.t, at.keys - j0);
    return;
  }
  if (j0 + kRows <= at.cached) {
    mine.bring(tile, pieces, cache.at(at.b, j0, at.kh), cache.t, kRows);
    return;
  }
  mine.bring(tile, pieces, [&](int i) -> const T* {
    const int j = j0 + i;
    const T* const rows = own.at(at.b, j - at.cached, at.kh);
    return j >= at.keys ? nullptr : j < at.cached ? cache.at(at.b, j, at.kh) : rows;
  });
}

/// Rows of a tile that this warp has written to memory, 16 bytes a lane; row(i) null: nowhere.
template <class T, int kD, int kRows, class Row>
__device__ __forceinline__ void put_rows(const unsigned char* tile, int d, bool pieces, int lane,
                                         Row row) {
  constexpr int kPieces = kD * static_cast<int>(sizeof(T)) / 16;
  constexpr int kElements = 16 / static_cast<int>(sizeof(T));
  for (int e = lane; e < kRows * kPieces; e += 32) {
    const int i = e / kPieces, piece = e % kPieces;
    T* const to = row(i);
    if (!to || piece * kElements >= d) {
      continue;
    }
    const uint4 x = *reinterpret_cast<const uint4*>(tile + i * kPitch<T, kD> + piece * 16);
    if (pieces && (piece + 1) * kElements <= d) {
      *reinterpret_cast<uint4*>(to + piece * kElements) = x;
      continue;
    }
    const T* const all = reinterpret_cast<const T*>(&x);
    for (int c = 0; c < kElements && piece * kElements + c < d; ++c) {
      to[piece * kElements + c] = all[c];
    }
  }
}
/// Two neighbouring elements of a row of a tile.
template <class T>
__device__ __forceinline__ void put_pair(unsigned char* to, float x, float y) {
  if constexpr (sizeof(T) == 2) {
    *reinterpret_cast<uint32_t*>(to) = cuda::pack_bf16(x, y);
  } else {
    *reinterpret_cast<float2*>(to) = make_float2(x, y);
  }
}
/// Sums of 16 rows by kBlocks * 8 channels to rows row .. of a tile.
template <class T, int kD>
__device__ __forceinline__ void put_sums(unsigned char* tile, const float (&x)[kD / 8][4], int row,
                                         float upper, float lower, int lane) {
  unsigned char* const to =
      tile + (row + lane / 4) * kPitch<T, kD> + 2 * (lane % 4) * static_cast<int>(sizeof(T));
#pragma unroll
  for (int n = 0; n < kD / 8; ++n) {
    constexpr int kBytes = 8 * static_cast<int>(sizeof(T));
    put_pair<T>(to + n * kBytes, x[n][0] * upper, x[n][1] * upper);
    put_pair<T>(to + n * kBytes + 8 * kPitch<T, kD>, x[n][2] * lower, x[n][3] * lower);
  }
}

/// to += rows row .. row + 15 of `left` times the rows of `right`, both of kD channels.
template <class T, int kD, int kN>
__device__ __forceinline__ void add_dots(float (&to)[kN / 8][4], uint32_t left, int row,
                                         uint32_t right, int lane) {
#pragma unroll
  for (int k = 0; k < kD / kStep<T>; ++k) {
    Left<T> a;
    cuda::load_left<T, kPitch<T, kD>>(a, left, row, k, lane);
#pragma unroll
    for (int n = 0; n < kN / 16; ++n) {
      Right<T> b;
      cuda::load_right<T, kPitch<T, kD>>(b, right, 16 * n, k, lane);
      cuda::multiply<T>(to[2 * n], to[2 * n + 1], a, b);
    }
  }
}
/// to += x times the rows of `right`: x is 16 by kN, the tile kN by kD.
template <class T, int kD, int kN>
__device__ __forceinline__ void add_product(float (&to)[kD / 8][4], const float (&x)[kN / 8][4],
                                            uint32_t right, int lane) {
#pragma unroll
  for (int k = 0; k < kN / kStep<T>; ++k) {
    Left<T> a;
    cuda::as_left<T>(a, x, k);
#pragma unroll
    for (int n = 0; n < kD / 16; ++n) {
      Right<T> b;
      cuda::load_right_t<T, kPitch<T, kD>>(b, right, k, 16 * n, lane);
      cuda::multiply<T>(to[2 * n], to[2 * n + 1], a, b);
    }
  }
}

/// The logit of a scaled product in units of log2, and its derivative by the product.
template <class T>
__device__ __forceinline__ float2 logit(const Call<T>& call, float product, float slope,
                                        int ahead) {
  float x = call.scale * product, derivative = call.scale;
  if (call.softcap > 0) {
    const float u = tanhf(x / call.softcap);
    derivative *= 1 - u * u;
    x = call.softcap * u;
  }
  x -= slope * static_cast<float>(ahead);
  return make_float2(x * cuda::kLog2e, derivative);
}

/// Sizes of a kernel's tiles.
template <class T, int kD>
struct Sizes {
  static constexpr bool kWide = sizeof(T) == 4;
  // Forward: rows of a warp in blocks of 16, warps, keys of a tile.
  static constexpr int kForwardBlocks = kWide ? 1 : 2, kForwardWarps = 4;
  static constexpr int kForwardKeys = kWide ? 32 : 64;
  // Backward: warps of 16 rows, rows of a tile of the others.
  static constexpr int kWarps = kWide ? 4 : 8;
  static constexpr int kOthers = kWide ? 32 : 64;
};

}  // namespace ls::ops::attention::flash
