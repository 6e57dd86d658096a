#pragma once
// What kernels of scans with a normaliser do besides: operands in two parts, what outputs are
// divided by.
#include "core/ops/decayed_linear/decayed_linear_hopper.cuh"

namespace ls::kernels::decayed_linear {

/// gate_scores with a normaliser, in f32: d * scale * w_s exp(G_t - G_s), before that d times
/// over_t where kOver and plus below_t where kBelow.
template <bool kTransposed, bool kOver, bool kBelow>
__device__ __forceinline__ void weigh_scores(float (&to)[32], const float (&d)[32],
                                             const NormalGates& gates, float scale, int warp,
                                             int lane) {
  const int row = 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
  const float* const of_rows = kTransposed ? gates.seen : gates.sum;
  const float* const of_columns = kTransposed ? gates.sum : gates.seen;
  const float g[2] = {of_rows[row], of_rows[row + 8]};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const int first = 8 * j + pair;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int r = row + 8 * (i / 2), c = first + i % 2, reader = kTransposed ? c : r;
      float x = d[4 * j + i];
      if constexpr (kOver) {
        x *= gates.over[reader];
      }
      if constexpr (kBelow) {
        x += gates.below[reader];
      }
      const float log = kTransposed ? of_columns[c] - g[i / 2] : g[i / 2] - of_columns[c];
      const bool kept = kTransposed ? r <= c : c <= r;
      to[4 * j + i] = kept ? x * (scale * cuda::exp2_fast(log)) : 0.f;
    }
  }
}
/// The sums d in two parts: rounded to bf16, and what that left.
template <int K>
__device__ __forceinline__ void as_operands(uint32_t (&a)[K][4], uint32_t (&rest)[K][4],
                                            const float (&d)[8 * K]) {
#pragma unroll
  for (int k = 0; k < K; ++k) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float x = d[8 * k + 2 * i], y = d[8 * k + 2 * i + 1];
      a[k][i] = cuda::pack_bf16(x, y);
      rest[k][i] = cuda::pack_bf16(x - cuda::low_bf16(a[k][i]), y - cuda::high_bf16(a[k][i]));
    }
  }
}
/// weigh_tokens in two parts.
__device__ __forceinline__ void weigh_tokens(uint32_t (&x)[4][4], uint32_t (&rest)[4][4],
                                             const float (&weight)[64], int lane) {
  const int pair = 2 * (lane & 3);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float2 w = *reinterpret_cast<const float2*>(weight + 16 * i + 8 * (m / 2) + pair);
      const float low = w.x * cuda::low_bf16(x[i][m]), high = w.y * cuda::high_bf16(x[i][m]);
      x[i][m] = cuda::pack_bf16(low, high);
      rest[i][m] = cuda::pack_bf16(low - cuda::low_bf16(x[i][m]), high - cuda::high_bf16(x[i][m]));
    }
  }
}

/// Rows of the queries of this warp times n, and their numbers of the token; by quads of lanes.
struct SumReader {
  float2 n[16];
  float m;  // of the row of lanes 0 and 1 of a quad
  __device__ __forceinline__ void load(const float* sums, const float* maxima, bool there,
                                       int lane) {
    const auto* const from = reinterpret_cast<const float2*>(sums) + (lane & 3);
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      n[i] = from[4 * i];
    }
    m = there ? *maxima : 0.f;
  }
  __device__ __forceinline__ float2 dot(const unsigned char* q, int warp, int lane) const {
    float2 sum = make_float2(0, 0);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      uint32_t x[4];
      cuda::load_matrices(x, cuda::block_address(cuda::smem_addr(q) + j / 4 * kTile, 16 * warp,
                                                 16 * (j % 4), lane));
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 e = n[2 * j + half];
        sum.x += e.x * cuda::low_bf16(x[2 * half]) + e.y * cuda::high_bf16(x[2 * half]);
        sum.y += e.x * cuda::low_bf16(x[2 * half + 1]) + e.y * cuda::high_bf16(x[2 * half + 1]);
      }
    }
    return sum;
  }
};
/// What the rows of this warp are divided by, from their scores and n.
__device__ __forceinline__ void divide_rows(float (&over)[64], const float (&p)[32],
                                            const SumReader& sums, const unsigned char* q,
                                            const NormalGates& gates, const Normaliser& normal,
                                            int64_t token, bool there, bool stored, int warp,
                                            int lane) {
  const float2 read = sums.dot(q, warp, lane);
  const int own = 16 * warp + (lane >> 2);
  float x = gates.read[own] * read.x, y = gates.read[own + 8] * read.y;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    x += p[4 * j] + p[4 * j + 1];
    y += p[4 * j + 2] + p[4 * j + 3];
  }
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, step);
    y += __shfl_xor_sync(0xffffffffu, y, step);
  }
  if ((lane & 3) < 2) {
    const float d = lane & 1 ? y : x, floor = expf(-sums.m), size = fabsf(d);
    const float h = normal.divides ? fmaxf(size, floor) + normal.eps : 1.f, one = 1 / h;
    over[own + 8 * (lane & 1)] = there ? one : 0.f;
    if (stored && there) {
      normal.over[token] = one;
      normal.under[token] = normal.divides && size > floor ? (d > 0 ? -one : one) : 0.f;
    }
  }
}

}  // namespace ls::kernels::decayed_linear
