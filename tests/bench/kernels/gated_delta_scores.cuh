#pragma once
// The 64x64 matrices of one chunk, each by one warpgroup.
#include "gated_delta_kernels.cuh"

namespace ls::kernels {

/// sums = a b^T over 128 columns of two tiles each; complete on return.
__device__ __forceinline__ void multiply_rows(float (&sums)[32], const unsigned char* a,
                                              const unsigned char* b) {
  const uint64_t da = wgmma::rows(cuda::smem_addr(a)), db = wgmma::rows(cuda::smem_addr(b));
  wgmma::hold(sums);
  wgmma::fence_sums();
#pragma unroll
  for (int i = 0; i < kDk / 16; ++i) {
    wgmma::multiply<64, wgmma::Depth::kRows, wgmma::Depth::kRows>(
        sums, wgmma::step_rows(da, i), wgmma::step_rows(db, i), i > 0);
  }
  wgmma::commit();
  wgmma::wait<0>();
  wgmma::hold(sums);
}

/// N of the keys k (two tiles) as a tile; see unit_lower.cuh.
__device__ __forceinline__ void write_solve(unsigned char* n, const unsigned char* k, float* lower,
                                            const ChunkGates& gates, int barrier, int warp,
                                            int lane) {
  float sums[32];
  multiply_rows(sums, k, k);
  cuda::solve_unit_lower(sums, lower, cuda::smem_addr(n), gates, barrier, warp, lane);
}

/// P = scale tril(Q K^T * D) as a tile.
__device__ __forceinline__ void write_scores(unsigned char* p, const unsigned char* q,
                                             const unsigned char* k, const ChunkGates& gates,
                                             float scale, int warp, int lane) {
  float sums[32];
  multiply_rows(sums, q, k);
  const int row = 16 * warp + (lane >> 2);
  const float g0 = gates.sum[row], g1 = gates.sum[row + 8];
  uint32_t a[4][4];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const int column = 8 * j + 2 * (lane & 3);
    const float2 g = *reinterpret_cast<const float2*>(gates.sum + column);
    const float x0 = column <= row ? sums[4 * j] * cuda::exp2_fast(g0 - g.x) : 0.f;
    const float x1 = column < row ? sums[4 * j + 1] * cuda::exp2_fast(g0 - g.y) : 0.f;
    const float x2 = column <= row + 8 ? sums[4 * j + 2] * cuda::exp2_fast(g1 - g.x) : 0.f;
    const float x3 = column < row + 8 ? sums[4 * j + 3] * cuda::exp2_fast(g1 - g.y) : 0.f;
    a[j / 2][2 * (j % 2)] = cuda::pack_bf16(scale * x0, scale * x1);
    a[j / 2][2 * (j % 2) + 1] = cuda::pack_bf16(scale * x2, scale * x3);
  }
#pragma unroll
  for (int k16 = 0; k16 < 4; ++k16) {
    cuda::store_matrices(cuda::block_address(cuda::smem_addr(p), 16 * warp, 16 * k16, lane),
                         a[k16][0], a[k16][1], a[k16][2], a[k16][3]);
  }
}

}  // namespace ls::kernels
