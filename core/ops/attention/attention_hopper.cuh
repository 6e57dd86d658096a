#pragma once
// What the passes of attention on sm_90a share (bf16, f32 sums): a block of three warpgroups, two
// that work on 64 rows each and one whose first warp has the copy engine bring tiles of 64 or 128
// rows in turns of two. A tile is [rows][64 columns] in the layout of wgmma, wider heads are
// several. Scores never leave registers: what a product leaves there is the left operand of the
// next. Query heads are on their own: rows are tokens, Here has group 1.
#include "core/backend/cuda/device/bulk_copy.cuh"
#include "core/backend/cuda/device/wgmma.cuh"
#include "core/ops/attention/attention_flash_backward.cuh"

namespace ls::ops::attention::hopper {

namespace wgmma = cuda::wgmma;
using cuda::Mbarrier;
using flash::Extra;
using flash::Here;
using flash::Limits;
using flash::Reach;
using wgmma::Depth;

inline constexpr int kThreads = 384;  ///< two warpgroups that multiply, one that brings
inline constexpr int kBox = cuda::kTileBytes<64>;
inline constexpr int kStages = 2;

struct Maps {
  CUtensorMap q, k, v, o, go, dq, dk, dv;
};

/// kRows rows and kD columns of a tensor, from token t of head h.
template <int kRows, int kD>
__device__ __forceinline__ void bring_tile(unsigned char* to, const CUtensorMap& map,
                                           Mbarrier& full, int h, int t, int b) {
#pragma unroll
  for (int c = 0; c < kD / 64; ++c) {
#pragma unroll
    for (int r = 0; r < kRows / 64; ++r) {
      cuda::load_box(to + (c * (kRows / 64) + r) * kBox, &map, full, 64 * c, h, t + 64 * r, b);
    }
  }
}
template <int kRows, int kD>
inline constexpr int kBytes = kRows* kD * 2;

/// d = 64 rows of a tile times the rows of another; both of kD columns.
template <int kD, int kRowsA, int kRowsB>
__device__ __forceinline__ void dots(float (&d)[kRowsB / 2], uint64_t a, uint64_t b) {
#pragma unroll
  for (int i = 0; i < kD / 16; ++i) {
    wgmma::multiply<kRowsB, Depth::kRows, Depth::kRows>(d, wgmma::step_rows<kRowsA>(a, i),
                                                        wgmma::step_rows<kRowsB>(b, i), i > 0);
  }
}
/// d += x times a tile of kN rows and kD columns.
template <int kD, int kN>
__device__ __forceinline__ void add_rows(float (&d)[kD / 2], const uint32_t (&x)[kN / 16][4],
                                         const unsigned char* tile) {
  wgmma::multiply_steps<Depth::kColumns>(
      d, x, wgmma::columns(cuda::smem_addr(tile), cuda::kTileBytes<kN>), true);
}

/// Sums of a warp's 16 rows to rows 16 warp .. of tiles of 64 rows, then memory.
template <int kD>
__device__ __forceinline__ void put_tile(unsigned char* tile, const float (&d)[kD / 2],
                                         const CUtensorMap& map, int h, int t, int b, int group,
                                         int warp, int lane) {
  uint32_t x[kD / 16][4];
  cuda::as_operand<kD / 16>(x, d);
  cuda::store_operands<kD / 16>(tile, x, warp, lane);
  cuda::fence_proxy_async();
  cuda::named_sync(1 + group, 128);
  if (warp == 0 && cuda::elect_one()) {
#pragma unroll
    for (int c = 0; c < kD / 64; ++c) {
      cuda::store_box(&map, tile + c * kBox, 64 * c, h, t, b);
    }
    cuda::commit_stores();
    cuda::wait_stores<0>();
  }
}

/// Limits and reach of the query rows r0 .. r0 + 127, by all threads.
template <class T>
__device__ __forceinline__ void find_reach(const Here<T>& at, Limits (&limits)[128], Reach& reach,
                                           int r0) {
  if (threadIdx.x == 0) {
    reach.clear();
  }
  __syncthreads();
  if (threadIdx.x < 128) {
    const int i = static_cast<int>(threadIdx.x);
    limits[i] = at.limits(r0 + i);
    if (r0 + i < at.rows) {
      reach.add(limits[i]);
    }
  }
  __syncthreads();
}
/// The first tile of kN keys from j on of which something may be visible.
template <int kN>
__device__ __forceinline__ int next_keys(const Reach& reach, int j, int end) {
  while (j < end && !reach.any(j, kN)) {
    j += kN;
  }
  return j;
}

}  // namespace ls::ops::attention::hopper
