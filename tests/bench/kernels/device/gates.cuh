#pragma once
// Scalar log-space gates of one chunk.
#include "tile.cuh"

namespace ls::cuda {

inline constexpr float kLog2e = 1.4426950408889634f;

/// What the chunk loop needs per token, in one run of bytes; rows past the end have no gate
/// (g = 0) and write nothing (beta = 0).
struct alignas(16) ChunkGates {
  float sum[64];    // G: running sum of log2 decays, inclusive
  float begin[64];  // exp(G_t): from the chunk's first state to t
  float end[64];    // exp(G_C - G_t): from t to the chunk's last state
  float beta[64];
};

/// What the 64x64 matrices of the chunk need besides. D_ij = 2^(G_i - G_j) of different blocks of
/// 16 tokens is 2^(G_i - E) tail_j, E being G at the end of j's block: both factors are at most 1.
struct alignas(16) BlockGates {
  float tail[64];     // exp(E - G_t)
  float beta[64];     // beta, never zero: a zero would lose the column's T (unit_lower.cuh)
  float inverse[64];  // 1 / that
};

/// Gates of two tokens a lane, as they come: 64 tokens a warp, `valid` of them real.
struct GatePair {
  float g0, g1, beta0, beta1;
};
__device__ __forceinline__ GatePair read_gates(const float* g, const bf16* beta, int64_t stride,
                                               int valid, int lane) {
  const int t = 2 * lane;
  const bool first = t < valid, second = t + 1 < valid;
  return {first && g ? g[t * stride] * kLog2e : 0.f,
          second && g ? g[(t + 1) * stride] * kLog2e : 0.f,
          first ? __bfloat162float(beta[t * stride]) : 0.f,
          second ? __bfloat162float(beta[(t + 1) * stride]) : 0.f};
}

/// By one warp; `second` (or null) gets the same as `to`, for whoever reads device memory.
__device__ __forceinline__ void write_gates(ChunkGates& to, BlockGates& blocks, ChunkGates* second,
                                            const GatePair& x, int lane) {
  float sum = x.g0 + x.g1;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const float before = __shfl_up_sync(0xffffffffu, sum, step);
    sum += lane >= step ? before : 0.f;
  }
  const float all = __shfl_sync(0xffffffffu, sum, 31);
  float before = __shfl_up_sync(0xffffffffu, sum, 1);
  before = lane > 0 ? before : 0.f;
  const float2 g = make_float2(before + x.g0, sum);
  const float2 begin = make_float2(exp2_fast(g.x), exp2_fast(g.y));
  const float2 end = make_float2(exp2_fast(all - g.x), exp2_fast(all - g.y));
  const auto write = [&](ChunkGates& z) {
    reinterpret_cast<float2*>(z.sum)[lane] = g;
    reinterpret_cast<float2*>(z.begin)[lane] = begin;
    reinterpret_cast<float2*>(z.end)[lane] = end;
    reinterpret_cast<float2*>(z.beta)[lane] = make_float2(x.beta0, x.beta1);
  };
  write(to);
  const float last = __shfl_sync(0xffffffffu, sum, lane | 7);
  reinterpret_cast<float2*>(blocks.tail)[lane] =
      make_float2(exp2_fast(last - g.x), exp2_fast(last - g.y));
  const auto safe = [](float beta) { return fabsf(beta) < 1e-12f ? 1e-12f : beta; };
  const float beta0 = safe(x.beta0), beta1 = safe(x.beta1);
  reinterpret_cast<float2*>(blocks.beta)[lane] = make_float2(beta0, beta1);
  reinterpret_cast<float2*>(blocks.inverse)[lane] = make_float2(1.f / beta0, 1.f / beta1);
  if (second) {
    write(*second);
  }
}

}  // namespace ls::cuda
