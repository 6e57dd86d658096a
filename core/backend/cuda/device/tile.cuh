#pragma once
// Tiles of bf16 in shared memory and their fragments.
// A tile is [rows][64], 128 bytes a row, in the 128-byte swizzle of the copy engine and of wgmma:
// the 16-byte piece p of row r lies at piece p ^ (r & 7). Wider matrices are several tiles, one
// after the other. Tiles start at multiples of 1024 bytes.
#include <cuda_bf16.h>

#include "core/backend/cuda/device/barrier.cuh"

namespace ls::cuda {

using bf16 = __nv_bfloat16;

inline constexpr int kTileColumns = 64;
inline constexpr int kTileRowBytes = 128;
template <int kRows>
inline constexpr int kTileBytes = kRows* kTileRowBytes;

/// Byte of (row, column) within a tile.
__device__ __forceinline__ uint32_t tile_offset(int row, int column) {
  return static_cast<uint32_t>(row * kTileRowBytes + ((column * 2) ^ ((row & 7) << 4)));
}

/// Two floats as bf16, the first in the lower half, to nearest even.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
  return r;
}
__device__ __forceinline__ float low_bf16(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float high_bf16(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

/// Four 8x8 matrices; lane l gives the address of row l % 8 of matrix l / 8. In register m a lane
/// holds elements (l / 4, 2 (l % 4)) and the next one of matrix m, or of its transpose.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_t(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void store_matrices(uint32_t address, uint32_t r0, uint32_t r1,
                                               uint32_t r2, uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(r0), "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}
__device__ __forceinline__ void store_matrices_t(uint32_t address, uint32_t r0, uint32_t r1,
                                                 uint32_t r2, uint32_t r3) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(r0), "r"(r1), "r"(r2), "r"(r3)
      : "memory");
}

// Addresses for the four functions above, of the 16x16 block at (row, column) of a tile. The order
// of the four matrices is that of the A operand of a product 16 deep: (0,0), (8,0), (0,8), (8,8).
// A block of the transposed matrix has its second and third matrix exchanged.
__device__ __forceinline__ uint32_t block_address(uint32_t tile, int row, int column, int lane) {
  return tile + tile_offset(row + (lane & 15), column + ((lane >> 4) << 3));
}
__device__ __forceinline__ uint32_t block_address_t(uint32_t tile, int row, int column, int lane) {
  return tile + tile_offset(row + (lane & 7) + ((lane >> 4) << 3), column + (lane & 8));
}

/// A operands, for products 16 deep, of the accumulators of 64 rows and 16 K columns: the layout
/// of sums and that of operands agree.
template <int K>
__device__ __forceinline__ void as_operand(uint32_t (&a)[K][4], const float (&d)[8 * K]) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[k][i] = pack_bf16(d[8 * k + 2 * i], d[8 * k + 2 * i + 1]);
    }
  }
}

/// d += a b for one warp: 16x8, 16 deep, bf16. b: rows 2 (l % 4) + {0, 1} and + 8 of column l / 4.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7},"
      " {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// The same, 8 deep, of f32 rounded to TF32: a (l / 4, l % 4), (+8, ), (, +4), (+8, +4);
/// b rows l % 4 and + 4 of column l / 4.
__device__ __forceinline__ void mma_tf32(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7},"
      " {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ uint32_t as_tf32(float x) {
  uint32_t r;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
  return r;
}

/// Operands of 16 rows of this warp, from row 16 warp of [64][16 K], to tiles.
template <int K>
__device__ __forceinline__ void store_operands(unsigned char* tiles, const uint32_t (&a)[K][4],
                                               int warp, int lane) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
    store_matrices(
        block_address(smem_addr(tiles) + k / 4 * kTileBytes<64>, 16 * warp, 16 * (k % 4), lane),
        a[k][0], a[k][1], a[k][2], a[k][3]);
  }
}
/// Operands of the transposed matrix [64 columns][64 rows] to and from a tile.
__device__ __forceinline__ void store_transposed(unsigned char* tile, const uint32_t (&a)[4][4],
                                                 int warp, int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    store_matrices_t(block_address_t(smem_addr(tile), 16 * i, 16 * warp, lane), a[i][0], a[i][1],
                     a[i][2], a[i][3]);
  }
}
__device__ __forceinline__ void load_transposed(uint32_t (&a)[4][4], const unsigned char* tile,
                                                int warp, int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    load_matrices_t(a[i], block_address_t(smem_addr(tile), 16 * i, 16 * warp, lane));
  }
}

/// Sum of the products of eight pairs of bf16.
__device__ __forceinline__ float dot8(const uint4& a, const uint4& b) {
  const uint32_t x[] = {a.x, a.y, a.z, a.w}, y[] = {b.x, b.y, b.z, b.w};
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum += low_bf16(x[i]) * low_bf16(y[i]) + high_bf16(x[i]) * high_bf16(y[i]);
  }
  return sum;
}

inline constexpr float kLog2e = 1.4426950408889634f;

/// 2^x, about 2 units in the last place.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace ls::cuda
