#pragma once
// Solving with unit lower triangular 64x64 matrices: one warpgroup, f32 and TF32.
#include "core/backend/cuda/device/gates.cuh"

namespace ls::cuda {

/// Scratch in shared memory: the lower blocks of 16x16, row after row of blocks.
inline constexpr int kLowerFloats = 10 * 256;
__device__ __forceinline__ int lower_block(int i, int j) {
  return (i * (i + 1) / 2 + j) * 256;
}
/// Element of a block; halves of every second pair of rows change places, so that what a warp
/// reads below lies in different banks.
__device__ __forceinline__ int lower_at(int row, int column) {
  return 16 * row + (column ^ ((row & 2) << 2));
}

/// L = L0 diag(beta) into the scratch: `kk` are the sums of K K^T in the layout of wgmma.cuh.
/// A warp writes the blocks of its own rows; its diagonal block it may read after __syncwarp.
__device__ __forceinline__ void write_lower(const float (&kk)[32], float* l,
                                            const ChunkGates& gates, int warp, int lane) {
  const int group = lane >> 2, pair = 2 * (lane & 3);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    if (j < 2 * warp + 2) {
      const float2 beta = *reinterpret_cast<const float2*>(gates.beta + 8 * j + pair);
      float* to = l + lower_block(warp, j / 2) + lower_at(group, 8 * (j % 2) + pair);
      *reinterpret_cast<float2*>(to) = make_float2(kk[4 * j] * beta.x, kk[4 * j + 1] * beta.y);
      *reinterpret_cast<float2*>(to + 128) =
          make_float2(kk[4 * j + 2] * beta.x, kk[4 * j + 3] * beta.y);
    }
  }
}

/// N = (I - A) * D as a bf16 tile, A = (I + L)^-1, L the strictly lower part of the scratch,
/// D_ij = 2^(G_i - G_j) (kGated; else 1, and there are no gates: null). Every element is written.
/// Each warp of the warpgroup has written the blocks of its rows, or a barrier is behind it.
/// With scalar gates A does not know them: D is a similarity by a diagonal matrix.
/// 1. Each warp inverts its diagonal block of 16 by substitution, a column a lane.
/// 2. Warp j makes block column j, one block row after the other, transposed so that sums can be
///    the next product's operand: A_ij^T = -(sum_k A_kj^T L_ik^T) A_ii^T. Depth is taken in the
///    order 0, 2, 4, 6, 1, 3, 5, 7 of 8, which makes the layouts of sums and of operands agree.
/// `barrier` is a named barrier of this warpgroup; ends without one, so the caller fences.
template <bool kGated>
__device__ __forceinline__ void solve_unit_lower(float* l, uint32_t tile, const ChunkGates* gates,
                                                 const BlockGates* blocks, int barrier, int warp,
                                                 int lane) {
  const int group = lane >> 2, pair = 2 * (lane & 3);
  __syncwarp();
  {
    float* block = l + lower_block(warp, warp);
    const int column = lane & 15;
    float x[16];
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float sums[4] = {i == column ? 1.f : 0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int k = 0; k < i; k += 4) {
        const float4 row = *reinterpret_cast<const float4*>(block + lower_at(i, k));
        sums[0] -= row.x * x[k];
        if (k + 1 < i) sums[1] -= row.y * x[k + 1];
        if (k + 2 < i) sums[2] -= row.z * x[k + 2];
        if (k + 3 < i) sums[3] -= row.w * x[k + 3];
      }
      x[i] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
      if (i % 4 == 3) {
        asm volatile("" ::: "memory");  // or the compiler loads the whole block at once
      }
    }
    __syncwarp();
    if (lane < 16) {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        block[lower_at(i, column)] = x[i];
      }
    }
  }
  named_sync(barrier, 128);

  // Block column `warp`; this lane's columns of A are `group` and `group` + 8 of it.
  const int first = 16 * warp;
  float scale0 = 1, scale1 = 1, last = 0;
  if constexpr (kGated) {
    scale0 = blocks->tail[first + group];
    scale1 = blocks->tail[first + group + 8];
    last = gates->sum[first + 15];
  }
  const auto store = [&](int i, const uint32_t(&r)[4]) {
    store_matrices_t(block_address_t(tile, 16 * i, first, lane), r[0], r[1], r[2], r[3]);
  };
  for (int i = 0; i < warp; ++i) {
    store(i, {0, 0, 0, 0});
  }
  uint32_t a[3][2][4];  // A_kj^T as operands
  {
    const float* block = l + lower_block(warp, warp);
    float g0 = 0, g1 = 0;
    if constexpr (kGated) {
      g0 = gates->sum[first + group];
      g1 = gates->sum[first + group + 8];
    }
    uint32_t r[4];
#pragma unroll
    for (int s = 0; s < 2; ++s) {
      const int row = 8 * s + pair;
      const float d0 = block[lower_at(row, group)], d1 = block[lower_at(row + 1, group)];
      const float d2 = block[lower_at(row, group + 8)], d3 = block[lower_at(row + 1, group + 8)];
      a[0][s][0] = as_tf32(d0);
      a[0][s][1] = as_tf32(d2);
      a[0][s][2] = as_tf32(d1);
      a[0][s][3] = as_tf32(d3);
      float e0 = row > group, e1 = row + 1 > group, e2 = row > group + 8, e3 = row + 1 > group + 8;
      if constexpr (kGated) {
        const float2 g = *reinterpret_cast<const float2*>(gates->sum + first + row);
        // The exponent is masked, not the product: above the diagonal it is positive.
        e0 = exp2_fast(row > group ? g.x - g0 : -1e30f);
        e1 = exp2_fast(row + 1 > group ? g.y - g0 : -1e30f);
        e2 = exp2_fast(row > group + 8 ? g.x - g1 : -1e30f);
        e3 = exp2_fast(row + 1 > group + 8 ? g.y - g1 : -1e30f);
      }
      r[2 * s] = pack_bf16(-d0 * e0, -d1 * e1);
      r[2 * s + 1] = pack_bf16(-d2 * e2, -d3 * e3);
    }
    store(warp, r);
  }
#pragma unroll
  for (int step = 1; step < 4; ++step) {
    const int i = warp + step;
    if (i < 4) {
      // sum += a L^T for the 16x16 block of l whose rows start at `i`, columns at `k`.
      const auto add = [&](float(&sum)[2][4], const uint32_t(&x)[2][4], int k) {
#pragma unroll
        for (int n = 0; n < 2; ++n) {
#pragma unroll
          for (int s = 0; s < 2; ++s) {
            const float2 b = *reinterpret_cast<const float2*>(
                l + lower_block(i, k) + lower_at(8 * n + group, 8 * s + pair));
            mma_tf32(sum[n], x[s], as_tf32(b.x), as_tf32(b.y));
          }
        }
      };
      const auto operand = [](uint32_t(&x)[2][4], const float(&sum)[2][4], float sign) {
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
      uint32_t r[4];
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        float e0 = 1, e1 = 1;
        if constexpr (kGated) {
          const float2 g = *reinterpret_cast<const float2*>(gates->sum + 16 * i + 8 * s + pair);
          e0 = exp2_fast(g.x - last);
          e1 = exp2_fast(g.y - last);
        }
        r[2 * s] = pack_bf16(z[s][0] * scale0 * e0, z[s][1] * scale0 * e1);
        r[2 * s + 1] = pack_bf16(z[s][2] * scale1 * e0, z[s][3] * scale1 * e1);
      }
      store(i, r);
    }
  }
}

}  // namespace ls::cuda
