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

/// By one warp: gates of 64 tokens, `valid` of them real; token t at g[t * stride].
__device__ __forceinline__ void load_gates(ChunkGates& to, const float* g, const bf16* beta,
                                           int64_t stride, int valid, int lane) {
  const int t = 2 * lane;
  const bool first = t < valid, second = t + 1 < valid;
  const float a = first && g ? g[t * stride] * kLog2e : 0.f;
  const float b = second && g ? g[(t + 1) * stride] * kLog2e : 0.f;
  float sum = a + b;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const float before = __shfl_up_sync(0xffffffffu, sum, step);
    sum += lane >= step ? before : 0.f;
  }
  const float all = __shfl_sync(0xffffffffu, sum, 31);
  float before = __shfl_up_sync(0xffffffffu, sum, 1);
  before = lane > 0 ? before : 0.f;
  const float2 g2 = make_float2(before + a, sum);
  reinterpret_cast<float2*>(to.sum)[lane] = g2;
  reinterpret_cast<float2*>(to.begin)[lane] = make_float2(exp2_fast(g2.x), exp2_fast(g2.y));
  reinterpret_cast<float2*>(to.end)[lane] =
      make_float2(exp2_fast(all - g2.x), exp2_fast(all - g2.y));
  reinterpret_cast<float2*>(to.beta)[lane] =
      make_float2(first ? __bfloat162float(beta[t * stride]) : 0.f,
                  second ? __bfloat162float(beta[(t + 1) * stride]) : 0.f);
}

}  // namespace ls::cuda
