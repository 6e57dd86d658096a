#pragma once
// The 64x64 matrices of one chunk, by one warpgroup.
#include "core/ops/delta_rule/gated_delta_kernels.cuh"

namespace ls::kernels::gated_delta {

/// sums = a b^T over kDk columns, tile after tile; issued and committed, not waited for.
template <int kDk>
__device__ __forceinline__ void start_rows(float (&sums)[32], const unsigned char* a,
                                           const unsigned char* b) {
  const uint64_t da = wgmma::rows(cuda::smem_addr(a)), db = wgmma::rows(cuda::smem_addr(b));
  wgmma::fence_sums();
#pragma unroll
  for (int i = 0; i < kDk / 16; ++i) {
    wgmma::multiply<64, wgmma::Depth::kRows, wgmma::Depth::kRows>(sums, wgmma::step_rows(da, i),
                                                                  wgmma::step_rows(db, i), i > 0);
  }
  wgmma::commit();
}

/// P = scale tril(Q K^T * D) diag(beta), from the sums of Q K^T, as a tile.
__device__ __forceinline__ void write_scores(const float (&sums)[32], unsigned char* p,
                                             const ChunkGates& gates,
                                             const cuda::BlockGates& blocks, float scale, int warp,
                                             int lane) {
  const int group = lane >> 2, pair = 2 * (lane & 3), first = 16 * warp;
  const float g0 = gates.sum[first + group], g1 = gates.sum[first + group + 8];
  const uint32_t tile = cuda::smem_addr(p);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t a[4] = {0, 0, 0, 0};
    const float* d = sums + 8 * k;
    if (k < warp) {
      const float last = gates.sum[16 * k + 15];
      const float f0 = scale * cuda::exp2_fast(g0 - last), f1 = scale * cuda::exp2_fast(g1 - last);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float2 tail =
            *reinterpret_cast<const float2*>(blocks.tail_beta + 16 * k + 8 * i + pair);
        a[2 * i] = cuda::pack_bf16(f0 * tail.x * d[4 * i], f0 * tail.y * d[4 * i + 1]);
        a[2 * i + 1] = cuda::pack_bf16(f1 * tail.x * d[4 * i + 2], f1 * tail.y * d[4 * i + 3]);
      }
    } else if (k == warp) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int column = 8 * i + pair;
        const float2 g = *reinterpret_cast<const float2*>(gates.sum + first + column);
        float2 beta = *reinterpret_cast<const float2*>(gates.beta + first + column);
        beta = make_float2(scale * beta.x, scale * beta.y);
        const float e0 = cuda::exp2_fast(column <= group ? g0 - g.x : -1e30f);
        const float e1 = cuda::exp2_fast(column < group ? g0 - g.y : -1e30f);
        const float e2 = cuda::exp2_fast(column <= group + 8 ? g1 - g.x : -1e30f);
        const float e3 = cuda::exp2_fast(column < group + 8 ? g1 - g.y : -1e30f);
        a[2 * i] = cuda::pack_bf16(beta.x * e0 * d[4 * i], beta.y * e1 * d[4 * i + 1]);
        a[2 * i + 1] = cuda::pack_bf16(beta.x * e2 * d[4 * i + 2], beta.y * e3 * d[4 * i + 3]);
      }
    }
    cuda::store_matrices(cuda::block_address(tile, first, 16 * k, lane), a[0], a[1], a[2], a[3]);
  }
}

}  // namespace ls::kernels::gated_delta
