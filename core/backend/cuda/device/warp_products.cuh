#pragma once
// Products of one warp on tensor cores (sm_80 and later) of bf16 or of f32, sums in f32. Operands
// lie in shared memory as rows of kPitch bytes, 16 more than what they hold, so that rows lie on
// different banks. A step is 32 bytes of depth: 16 bf16 or 8 f32. Products of f32 are three of
// TF32: each factor is a high and a low part.
#include "core/backend/cuda/device/tile.cuh"

namespace ls::cuda {

template <class T, int kColumns>
inline constexpr int kPitch = kColumns* static_cast<int>(sizeof(T)) + 16;
/// Elements of a step.
template <class T>
inline constexpr int kStep = 32 / static_cast<int>(sizeof(T));

/// A: 16 rows of a step.
template <class T>
struct Left {
  static constexpr bool kWide = sizeof(T) == 4;
  uint32_t high[4], low[kWide ? 4 : 1];
};
/// B: 16 columns of a step, as two of 8.
template <class T>
struct Right {
  static constexpr bool kWide = sizeof(T) == 4;
  uint32_t high[4], low[kWide ? 4 : 1];
};

/// High and low parts of the f32 that `high` holds.
template <class Operand>
__device__ __forceinline__ void split(Operand& x) {
  if constexpr (Operand::kWide) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float all = __uint_as_float(x.high[i]);
      x.high[i] = as_tf32(all);
      x.low[i] = as_tf32(all - __uint_as_float(x.high[i]));
    }
  }
}

/// Rows row .. row + 15 of a tile, step `step`.
template <class T, int kPitchBytes>
__device__ __forceinline__ void load_left(Left<T>& a, uint32_t tile, int row, int step, int lane) {
  load_matrices(a.high, tile + static_cast<uint32_t>((row + (lane & 15)) * kPitchBytes + 32 * step +
                                                     (lane >> 4) * 16));
  split(a);
}
/// Columns n .. n + 15 are rows of a tile, the depth lies along them.
template <class T, int kPitchBytes>
__device__ __forceinline__ void load_right(Right<T>& b, uint32_t tile, int n, int step, int lane) {
  const int row = n + (lane & 7) + ((lane >> 4) << 3);
  load_matrices(
      b.high, tile + static_cast<uint32_t>(row * kPitchBytes + 32 * step + ((lane >> 3) & 1) * 16));
  split(b);
}
/// The depth is rows kStep step .. of a tile, in the order that as_left has; columns n .. n + 15.
template <class T, int kPitchBytes>
__device__ __forceinline__ void load_right_t(Right<T>& b, uint32_t tile, int step, int n,
                                             int lane) {
  if constexpr (sizeof(T) == 2) {
    load_matrices_t(b.high, tile + static_cast<uint32_t>((16 * step + (lane & 15)) * kPitchBytes +
                                                         2 * n + (lane >> 4) * 16));
  } else {
    const uint32_t at = tile + static_cast<uint32_t>((8 * step + 2 * (lane & 3)) * kPitchBytes +
                                                     4 * (n + (lane >> 2)));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      asm volatile("ld.shared.u32 %0, [%1];"
                   : "=r"(b.high[i])
                   : "r"(at + static_cast<uint32_t>((i >> 1) * 32 + (i & 1) * kPitchBytes))
                   : "memory");
    }
    split(b);
  }
}
/// Sums of 16 rows and 8 kBlocks columns as the left operand of `kBlocks * 8 / kStep` steps.
template <class T, int kBlocks>
__device__ __forceinline__ void as_left(Left<T>& a, const float (&d)[kBlocks][4], int step) {
  if constexpr (sizeof(T) == 2) {
    a.high[0] = pack_bf16(d[2 * step][0], d[2 * step][1]);
    a.high[1] = pack_bf16(d[2 * step][2], d[2 * step][3]);
    a.high[2] = pack_bf16(d[2 * step + 1][0], d[2 * step + 1][1]);
    a.high[3] = pack_bf16(d[2 * step + 1][2], d[2 * step + 1][3]);
  } else {
    a.high[0] = __float_as_uint(d[step][0]);
    a.high[1] = __float_as_uint(d[step][2]);
    a.high[2] = __float_as_uint(d[step][1]);
    a.high[3] = __float_as_uint(d[step][3]);
    split(a);
  }
}

/// The two blocks of 8 columns of d += a b.
template <class T>
__device__ __forceinline__ void multiply(float (&d0)[4], float (&d1)[4], const Left<T>& a,
                                         const Right<T>& b) {
  if constexpr (sizeof(T) == 2) {
    mma_bf16(d0, a.high, b.high[0], b.high[1]);
    mma_bf16(d1, a.high, b.high[2], b.high[3]);
  } else {
    mma_tf32(d0, a.low, b.high[0], b.high[1]);
    mma_tf32(d1, a.low, b.high[2], b.high[3]);
    mma_tf32(d0, a.high, b.low[0], b.low[1]);
    mma_tf32(d1, a.high, b.low[2], b.low[3]);
    mma_tf32(d0, a.high, b.high[0], b.high[1]);
    mma_tf32(d1, a.high, b.high[2], b.high[3]);
  }
}

/// 16 bytes to shared memory while the thread goes on; behind `bytes` of them come zeros.
__device__ __forceinline__ void copy_piece(uint32_t to, const void* from, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Until at most N groups of this thread's copies are under way.
template <int N>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

}  // namespace ls::cuda
