#pragma once
// Solving with unit lower triangular 64x64 matrices: one warpgroup, f32 and TF32.
#include "gates.cuh"

namespace ls::cuda {

/// Scratch in shared memory; the stride keeps the reads below free of bank conflicts.
inline constexpr int kLowerStride = 72;
inline constexpr int kLowerFloats = 64 * kLowerStride;

/// Smallest factor a column is scaled by: a beta of zero would lose the column's T.
__device__ __forceinline__ float safe_beta(float beta) {
  return fabsf(beta) < 1e-12f ? 1e-12f : beta;
}

/// N = T * D as a bf16 tile, where (I + L0 diag(beta)) T = L0, L0 the strictly lower part of the
/// sums `kk` of K K^T (layout of wgmma.cuh), D_ij = 2^(G_i - G_j). Every element is written.
///
/// With A = (I + L0 diag(beta))^-1, T = (I - A) / beta by columns, and A does not know the gates.
/// 1. Each warp inverts its diagonal block of 16 by substitution, a column a lane.
/// 2. Warp j makes block column j, one block row after the other, transposed so that sums can be
///    the next product's operand: A_ij^T = -(sum_k A_kj^T L_ik^T) A_ii^T. Depth is taken in the
///    order 0, 2, 4, 6, 1, 3, 5, 7 of 8, which makes the layouts of sums and of operands agree.
/// `barrier` is a named barrier of this warpgroup; ends without one, so the caller fences.
__device__ __forceinline__ void solve_unit_lower(const float (&kk)[32], float* l, uint32_t tile,
                                                 const ChunkGates& gates, int barrier, int warp,
                                                 int lane) {
  const int group = lane >> 2, pair = 2 * (lane & 3);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    if (j < 2 * warp + 2) {
      const float2 beta = *reinterpret_cast<const float2*>(gates.beta + 8 * j + pair);
      const float b0 = safe_beta(beta.x), b1 = safe_beta(beta.y);
      float* to = l + (16 * warp + group) * kLowerStride + 8 * j + pair;
      *reinterpret_cast<float2*>(to) = make_float2(kk[4 * j] * b0, kk[4 * j + 1] * b1);
      *reinterpret_cast<float2*>(to + 8 * kLowerStride) =
          make_float2(kk[4 * j + 2] * b0, kk[4 * j + 3] * b1);
    }
  }
  __syncwarp();
  {
    float* block = l + 16 * warp * (kLowerStride + 1);
    const int column = lane & 15;
    float x[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float sums[4] = {i == column ? 1.f : 0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int k = 0; k < i; k += 4) {
        const float4 row = *reinterpret_cast<const float4*>(block + i * kLowerStride + k);
        sums[0] -= row.x * x[k];
        if (k + 1 < i) sums[1] -= row.y * x[k + 1];
        if (k + 2 < i) sums[2] -= row.z * x[k + 2];
        if (k + 3 < i) sums[3] -= row.w * x[k + 3];
      }
      x[i] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
    __syncwarp();
    if (lane < 16) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        block[i * kLowerStride + column] = x[i];
      }
    }
  }
  named_sync(barrier, 128);

  // Block column `warp`. Column of A: group, group + 8; its 1 / beta and G.
  const int first = 16 * warp;
  const float inv0 = 1.f / safe_beta(gates.beta[first + group]);
  const float inv1 = 1.f / safe_beta(gates.beta[first + group + 8]);
  const float g0 = gates.sum[first + group], g1 = gates.sum[first + group + 8];
  // Stores block row i; a[s] holds -A^T: (row of A) 8 s + pair + {0, 1}, columns of A group (+8).
  const auto store = [&](int i, const float (&a)[2][4]) {
    uint32_t r[4];
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const int row = 16 * i + 8 * s + pair;
      const float2 g = *reinterpret_cast<const float2*>(gates.sum + row);
      const int c0 = first + group, c1 = c0 + 8;
      const float x0 = row > c0 ? a[s][0] * inv0 * exp2_fast(g.x - g0) : 0.f;
      const float x1 = row + 1 > c0 ? a[s][1] * inv0 * exp2_fast(g.y - g0) : 0.f;
      const float x2 = row > c1 ? a[s][2] * inv1 * exp2_fast(g.x - g1) : 0.f;
      const float x3 = row + 1 > c1 ? a[s][3] * inv1 * exp2_fast(g.y - g1) : 0.f;
      r[2 * s] = pack_bf16(x0, x1);
      r[2 * s + 1] = pack_bf16(x2, x3);
    }
    store_matrices_t(block_address_t(tile, 16 * i, first, lane), r[0], r[1], r[2], r[3]);
  };
  for (int i = 0; i < warp; ++i) {
    store_matrices_t(block_address_t(tile, 16 * i, first, lane), 0, 0, 0, 0);
  }
  uint32_t a[3][2][4];  // A_kj^T as operands
  {
    float d[2][4];
    const float* block = l + first * (kLowerStride + 1);
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const float* from = block + (8 * s + pair) * kLowerStride + group;
      d[s][0] = -from[0];
      d[s][1] = -from[kLowerStride];
      d[s][2] = -from[8];
      d[s][3] = -from[kLowerStride + 8];
      a[0][s][0] = as_tf32(-d[s][0]);
      a[0][s][1] = as_tf32(-d[s][2]);
      a[0][s][2] = as_tf32(-d[s][1]);
      a[0][s][3] = as_tf32(-d[s][3]);
    }
    store(warp, d);
  }
#pragma unroll
  for (int step = 1; step < 4; ++step) {
    const int i = warp + step;
    if (i < 4) {
      // sum += a L^T for the 16x16 block of l whose rows start at `i`, columns at `k`.
      const auto add = [&](float (&sum)[2][4], const uint32_t (&x)[2][4], int k) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int s = 0; s < 2; ++s) {
            const float2 b = *reinterpret_cast<const float2*>(
                l + (16 * i + 8 * n + group) * kLowerStride + 16 * k + 8 * s + pair);
            mma_tf32(sum[n], x[s], as_tf32(b.x), as_tf32(b.y));
          }
        }
      };
      const auto operand = [](uint32_t (&x)[2][4], const float (&sum)[2][4], float sign) {
#pragma unroll
        for (int s = 0; s < 2; ++s) {
          x[s][0] = as_tf32(sign * sum[s][0]);
          x[s][1] = as_tf32(sign * sum[s][2]);
          x[s][2] = as_tf32(sign * sum[s][1]);
          x[s][3] = as_tf32(sign * sum[s][3]);
        }
      };
      float y[2][4] = {}, z[2][4] = {};
#pragma unroll
      for (int k = 0; k < step; ++k) {
        add(y, a[k], warp + k);
      }
      uint32_t yo[2][4];
      operand(yo, y, 1.f);
      add(z, yo, i);
      if (step < 3) {
        operand(a[step], z, -1.f);
      }
      store(i, z);
    }
  }
}

}  // namespace ls::cuda
