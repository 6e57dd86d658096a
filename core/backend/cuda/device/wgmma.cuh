#pragma once
// wgmma, 64 x N x 16, bf16 operands and f32 sums: one warpgroup (128 threads), asynchronous.
//
// Sums: float d[N / 2]; of warp w (0 to 3) and lane l, d[4 j + i] is row 16 w + l / 4 + 8 (i / 2),
// column 8 j + 2 (l % 4) + i % 2. A in registers: what as_operand makes of sums.
// Operands in shared memory are tiles (tile.cuh):
//   rows(tile)      the depth runs along the 64 columns (A: M rows, B: N rows). A step of 16 in
//                   depth is step_rows; N may start at any row that is a multiple of 8.
//   columns(tile)   the depth runs down the rows (both operands enter transposed). A step of 16 in
//                   depth is step_columns; 64 columns of M or N, more in the next tile(s), which
//                   lie `next` bytes after.
// Order: fence_sums once before the first product that reads registers written by ordinary
// instructions; then products; commit; wait. Between a product and its wait nothing may touch
// its registers; hold() keeps the compiler from moving reads up across the wait. One array of sums
// is one set of registers: a product into a part of it makes ptxas copy and serialise (C7511).
#include "core/backend/cuda/device/tile.cuh"

namespace ls::cuda::wgmma {

__device__ __forceinline__ void fence_sums() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Until at most N of the last groups are unfinished.
template <int N>
__device__ __forceinline__ void wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
template <int N>
__device__ __forceinline__ void hold(float (&d)[N]) {
#pragma unroll
  for (int i = 0; i < N; ++i) {
    asm volatile("" : "+f"(d[i])::"memory");
  }
}
template <int K>
__device__ __forceinline__ void hold(uint32_t (&a)[K][4]) {
#pragma unroll
  for (int i = 0; i < 4 * K; ++i) {
    asm volatile("" : "+r"(a[i / 4][i % 4])::"memory");
  }
}

// Fields of a descriptor, in units of 16 bytes: address, bits 0 to 13; stride between blocks of 64
// columns, bits 16 to 29 (only where depth runs down the rows); stride between groups of 8 rows,
// bits 32 to 45; bit 62: the swizzle of 128 bytes.
__device__ __forceinline__ uint64_t descriptor(uint32_t address, uint32_t next) {
  return (uint64_t{1} << 62) | (uint64_t{1024 >> 4} << 32) | (uint64_t{next >> 4} << 16) |
         ((address & 0x3ffff) >> 4);
}
__device__ __forceinline__ uint64_t rows(uint32_t tile) {
  return descriptor(tile, 16);
}
__device__ __forceinline__ uint64_t columns(uint32_t tile, uint32_t next = 16) {
  return descriptor(tile, next);
}
/// Descriptor `steps` times 16 further in depth; across tiles of `kRows` rows, 4 steps a tile.
template <int kRows = 64>
__device__ __forceinline__ uint64_t step_rows(uint64_t d, int steps) {
  return d +
         static_cast<uint64_t>((steps & 3) * (32 >> 4) + (steps >> 2) * (kTileBytes<kRows> >> 4));
}
__device__ __forceinline__ uint64_t step_columns(uint64_t d, int steps) {
  return d + static_cast<uint64_t>(steps * (16 * kTileRowBytes >> 4));
}
/// Descriptor `n` rows further down.
__device__ __forceinline__ uint64_t from_row(uint64_t d, int n) {
  return d + static_cast<uint64_t>(n * kTileRowBytes >> 4);
}

enum class Depth { kRows, kColumns };

// One body per N; the lists below name the sums as operands 0 to N / 2 - 1.
#define LS_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define LS_D8(i) LS_D4(i), LS_D4(i + 4)
#define LS_D16(i) LS_D8(i), LS_D8(i + 8)
#define LS_D32(i) LS_D16(i), LS_D16(i + 16)
#define LS_D64(i) LS_D32(i), LS_D32(i + 32)
#define LS_P8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define LS_P16 LS_P8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define LS_P24 LS_P16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define LS_P32 LS_P24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define LS_P48 \
  LS_P32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define LS_P64 \
  LS_P48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LS_P96                                                                       \
  LS_P64                                                                             \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
  ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define LS_P128                                                                          \
  LS_P96                                                                                 \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109"     \
  ", %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123" \
  ", %124, %125, %126, %127"

// p0 to p6: the numbers of the operands behind the sums.
#define LS_WGMMA(n, sums, list, p0, p1, p2, p3, p4, p5, p6, p7)                                 \
  template <Depth kA, Depth kB, int kSign>                                                      \
  __device__ __forceinline__ void multiply_##n(float(&d)[n / 2], uint64_t a, uint64_t b,        \
                                               int add) {                                       \
    asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %" #p2                                     \
                 ", 0;\n"                                                                       \
                 " wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" list "}, %" #p0  \
                 ", %" #p1 ", p, %" #p3 ", 1, %" #p4 ", %" #p5 ";\n}"                           \
                 : sums                                                                         \
                 : "l"(a), "l"(b), "r"(add), "n"(kSign), "n"(kA == Depth::kColumns ? 1 : 0),    \
                   "n"(kB == Depth::kColumns ? 1 : 0)                                           \
                 : "memory");                                                                   \
  }                                                                                             \
  template <Depth kB, int kSign>                                                                \
  __device__ __forceinline__ void multiply_##n(float(&d)[n / 2], const uint32_t(&a)[4],         \
                                               uint64_t b, int add) {                           \
    asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %" #p5                                     \
                 ", 0;\n"                                                                       \
                 " wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" list "}, {%" #p0 \
                 ", %" #p1 ", %" #p2 ", %" #p3 "}, %" #p4 ", p, %" #p6 ", 1, %" #p7 ";\n}"      \
                 : sums                                                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(kSign),    \
                   "n"(kB == Depth::kColumns ? 1 : 0)                                           \
                 : "memory");                                                                   \
  }

#define LS_L(...) __VA_ARGS__
LS_WGMMA(16, LS_D8(0), LS_P8, 8, 9, 10, 11, 12, 13, 14, 15)
LS_WGMMA(32, LS_D16(0), LS_P16, 16, 17, 18, 19, 20, 21, 22, 23)
LS_WGMMA(48, LS_L(LS_D16(0), LS_D8(16)), LS_P24, 24, 25, 26, 27, 28, 29, 30, 31)
LS_WGMMA(64, LS_D32(0), LS_P32, 32, 33, 34, 35, 36, 37, 38, 39)
LS_WGMMA(96, LS_L(LS_D32(0), LS_D16(32)), LS_P48, 48, 49, 50, 51, 52, 53, 54, 55)
LS_WGMMA(128, LS_D64(0), LS_P64, 64, 65, 66, 67, 68, 69, 70, 71)
LS_WGMMA(192, LS_L(LS_D64(0), LS_D32(64)), LS_P96, 96, 97, 98, 99, 100, 101, 102, 103)
LS_WGMMA(256, LS_L(LS_D64(0), LS_D64(64)), LS_P128, 128, 129, 130, 131, 132, 133, 134, 135)
#undef LS_WGMMA
#undef LS_L
#undef LS_D4
#undef LS_D8
#undef LS_D16
#undef LS_D32
#undef LS_D64
#undef LS_P8
#undef LS_P16
#undef LS_P24
#undef LS_P32
#undef LS_P48
#undef LS_P64
#undef LS_P96
#undef LS_P128

/// d = kSign * a b + (add ? d : 0); how the depth of each operand lies in its tiles.
template <int N, Depth kA, Depth kB, int kSign = 1>
__device__ __forceinline__ void multiply(float (&d)[N / 2], uint64_t a, uint64_t b, bool add) {
  if constexpr (N == 16) {
    multiply_16<kA, kB, kSign>(d, a, b, add);
  } else if constexpr (N == 32) {
    multiply_32<kA, kB, kSign>(d, a, b, add);
  } else if constexpr (N == 48) {
    multiply_48<kA, kB, kSign>(d, a, b, add);
  } else if constexpr (N == 64) {
    multiply_64<kA, kB, kSign>(d, a, b, add);
  } else if constexpr (N == 96) {
    multiply_96<kA, kB, kSign>(d, a, b, add);
  } else if constexpr (N == 128) {
    multiply_128<kA, kB, kSign>(d, a, b, add);
  } else if constexpr (N == 192) {
    multiply_192<kA, kB, kSign>(d, a, b, add);
  } else if constexpr (N == 256) {
    multiply_256<kA, kB, kSign>(d, a, b, add);
  } else {
    static_assert(N == 0, "no product of this width");
  }
}
template <int N, Depth kB, int kSign = 1>
__device__ __forceinline__ void multiply(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,
                                         bool add) {
  if constexpr (N == 16) {
    multiply_16<kB, kSign>(d, a, b, add);
  } else if constexpr (N == 32) {
    multiply_32<kB, kSign>(d, a, b, add);
  } else if constexpr (N == 48) {
    multiply_48<kB, kSign>(d, a, b, add);
  } else if constexpr (N == 64) {
    multiply_64<kB, kSign>(d, a, b, add);
  } else if constexpr (N == 96) {
    multiply_96<kB, kSign>(d, a, b, add);
  } else if constexpr (N == 128) {
    multiply_128<kB, kSign>(d, a, b, add);
  } else if constexpr (N == 192) {
    multiply_192<kB, kSign>(d, a, b, add);
  } else if constexpr (N == 256) {
    multiply_256<kB, kSign>(d, a, b, add);
  } else {
    static_assert(N == 0, "no product of this width");
  }
}

/// d = kSign * a b + (add ? d : 0), 16 K deep; issued, not committed.
template <Depth kB, int kSign = 1, int kHalf, int K>
__device__ __forceinline__ void multiply_steps(float (&d)[kHalf], const uint32_t (&a)[K][4],
                                               uint64_t b, bool add) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
    multiply<2 * kHalf, kB, kSign>(
        d, a[k], kB == Depth::kRows ? step_rows(b, k) : step_columns(b, k), add || k > 0);
  }
}

}  // namespace ls::cuda::wgmma
