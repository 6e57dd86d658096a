#pragma once
// Scalar log-space gates of one chunk.
#include "core/backend/cuda/device/tile.cuh"

namespace ls::cuda {

/// What the chunk loop needs per token, in one run of bytes; rows past the end have no gate
/// (g = 0) and next to no beta: 1e-12 stands for a zero, whose column could not be divided by.
struct alignas(16) ChunkGates {
  float sum[64];    // G: running sum of log2 decays, inclusive
  float begin[64];  // exp(G_t): from the chunk's first state to t
  float late[64];   // beta_t exp(G_C - G_t): a write at t as the chunk's last state has it
  float beta[64];
};

/// What the 64x64 matrices of the chunk need besides. D_ij = 2^(G_i - G_j) of different blocks of
/// 16 tokens is 2^(G_i - E) tail_j, E being G at the end of j's block: both factors are at most 1.
struct alignas(16) BlockGates {
  float tail[64];       // exp(E - G_t)
  float tail_beta[64];  // times beta
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
  const auto safe = [](float beta) { return fabsf(beta) < 1e-12f ? 1e-12f : beta; };
  const float2 beta = make_float2(safe(x.beta0), safe(x.beta1));
  const float2 late = make_float2(beta.x * exp2_fast(all - g.x), beta.y * exp2_fast(all - g.y));
  const auto write = [&](ChunkGates& z) {
    reinterpret_cast<float2*>(z.sum)[lane] = g;
    reinterpret_cast<float2*>(z.begin)[lane] = begin;
    reinterpret_cast<float2*>(z.late)[lane] = late;
    reinterpret_cast<float2*>(z.beta)[lane] = beta;
  };
  write(to);
  const float last = __shfl_sync(0xffffffffu, sum, lane | 7);
  const float2 tail = make_float2(exp2_fast(last - g.x), exp2_fast(last - g.y));
  reinterpret_cast<float2*>(blocks.tail)[lane] = tail;
  reinterpret_cast<float2*>(blocks.tail_beta)[lane] = make_float2(tail.x * beta.x, tail.y * beta.y);
  if (second) {
    write(*second);
  }
}

}  // namespace ls::cuda
