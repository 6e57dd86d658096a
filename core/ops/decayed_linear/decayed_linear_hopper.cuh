#pragma once
// What the kernels of decayed linear attention share.
#include "core/backend/cuda/device/bulk_copy.cuh"
#include "core/backend/cuda/device/wgmma.cuh"
#include "core/backend/cuda/kernel_host.h"
#include "core/backend/cuda/tensor_maps.h"
#include "core/ops/decayed_linear/decayed_linear_hopper.h"

namespace ls::kernels::decayed_linear {

using cuda::bf16;
using cuda::last_turn;
using cuda::load_transposed;
using cuda::Mbarrier;
using cuda::this_turn;
namespace wgmma = cuda::wgmma;
using wgmma::Depth;

inline constexpr int kTile = cuda::kTileBytes<64>;  // 8 KiB
inline constexpr int kDk = LinearSizes::kDk;
inline constexpr int kDv = LinearSizes::kDv;
/// A state of one chunk as bf16, transposed: for each 64 keys [128 values][64 keys] swizzled.
inline constexpr int kStateBytes = kDk * kDv * 2;

/// Launches a kernel that may start while the one before it in the stream ends: it calls
/// wait_for_previous_grid before it reads or writes anything but its arguments.
template <class... Parameters, class... Values>
cudaError_t launch_behind(void (*kernel)(Parameters...), int64_t blocks, int threads, int bytes,
                          cudaStream_t stream, const Values&... values) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(bytes);
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, values...);
}

/// Where the scalar gate of (b, t, h) comes from.
struct GateSource {
  const float* g;
  const float* decay;
  int tokens, heads;
  __device__ float at(int64_t b, int t, int h) const {
    return t >= tokens ? 0.f : g ? g[(b * tokens + t) * heads + h] : decay ? decay[h] : 0.f;
  }
};

/// Scalar gates of one chunk. Tokens past the end have g = 0: they decay nothing.
struct alignas(16) ScalarGates {
  float sum[64];   // G: running sum of log2 decays, inclusive
  float read[64];  // scale exp(G_t): how token t reads the state before the chunk
  float end[64];   // exp(G_C - G_t): what is left of token t's write after the chunk
  float all;       // exp(G_C)
  float unused[3];
};

/// By one warp, two tokens a lane: g0, g1 natural logs.
__device__ __forceinline__ void write_gates(ScalarGates& to, float g0, float g1, float scale,
                                            int lane) {
  constexpr float kLog2e = 1.4426950408889634f;
  g0 *= kLog2e;
  g1 *= kLog2e;
  float sum = g0 + g1;
#pragma unroll
  for (int step = 1; step < 32; step *= 2) {
    const float before = __shfl_up_sync(0xffffffffu, sum, step);
    sum += lane >= step ? before : 0.f;
  }
  const float all = __shfl_sync(0xffffffffu, sum, 31);
  const float before = __shfl_up_sync(0xffffffffu, sum, 1);
  const float first = (lane > 0 ? before : 0.f) + g0;
  reinterpret_cast<float2*>(to.sum)[lane] = make_float2(first, sum);
  reinterpret_cast<float2*>(to.read)[lane] =
      make_float2(scale * cuda::exp2_fast(first), scale * cuda::exp2_fast(sum));
  reinterpret_cast<float2*>(to.end)[lane] =
      make_float2(cuda::exp2_fast(all - first), cuda::exp2_fast(all - sum));
  if (lane == 0) {
    to.all = cuda::exp2_fast(all);
  }
}

/// d = rows(a) rows(b)^T over 128 columns: both [64][128], two tiles one after the other.
__device__ __forceinline__ void multiply_rows(float (&d)[32], const void* a, const void* b) {
  const uint64_t x = wgmma::rows(cuda::smem_addr(a)), y = wgmma::rows(cuda::smem_addr(b));
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    wgmma::multiply<64, Depth::kRows, Depth::kRows>(d, wgmma::step_rows(x, i),
                                                    wgmma::step_rows(y, i), i > 0);
  }
}

/// Scores of this warp's 16 rows as operands: d * scale * exp(G_t - G_s) for s <= t, else 0; the
/// exponent is formed only where s <= t. kTransposed: rows are s, columns t.
template <bool kTransposed>
__device__ __forceinline__ void gate_scores(uint32_t (&to)[4][4], const float (&d)[32],
                                            const ScalarGates& gates, float scale, int warp,
                                            int lane) {
  const int row = 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
  const float g0 = gates.sum[row], g1 = gates.sum[row + 8];
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    const bool none = kTransposed ? 8 * j + 7 < 16 * warp : 8 * j > 16 * warp + 15;
    uint32_t low = 0, high = 0;
    if (!none) {
      const int column = 8 * j + pair;
      const float2 g = *reinterpret_cast<const float2*>(gates.sum + column);
      const auto factor = [&](float at_row, float at_column, bool keep) {
        return keep ? scale * cuda::exp2_fast(kTransposed ? at_column - at_row : at_row - at_column)
                    : 0.f;
      };
      const auto kept = [&](int r, int c) { return kTransposed ? r <= c : c <= r; };
      low = cuda::pack_bf16(d[4 * j] * factor(g0, g.x, kept(row, column)),
                            d[4 * j + 1] * factor(g0, g.y, kept(row, column + 1)));
      high = cuda::pack_bf16(d[4 * j + 2] * factor(g1, g.x, kept(row + 8, column)),
                             d[4 * j + 3] * factor(g1, g.y, kept(row + 8, column + 1)));
    }
    to[j / 2][2 * (j % 2)] = low;
    to[j / 2][2 * (j % 2) + 1] = high;
  }
}

/// Scales an operand by a weight a token, its depth.
__device__ __forceinline__ void weigh_tokens(uint32_t (&x)[4][4], const float (&weight)[64],
                                             int lane) {
  const int pair = 2 * (lane & 3);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float2 w = *reinterpret_cast<const float2*>(weight + 16 * i + 8 * (m / 2) + pair);
      x[i][m] = cuda::pack_bf16(w.x * cuda::low_bf16(x[i][m]), w.y * cuda::high_bf16(x[i][m]));
    }
  }
}

/// A state S [128][128] f32 in device memory to and from the sums of S^T: 64 values from `value`.
__device__ __forceinline__ void load_state(float (&state)[kDk / 2], const float* from, int value,
                                           int warp, int lane) {
  const int row = value + 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) {
    state[i] = from ? from[(8 * (i / 4) + pair + i % 2) * kDv + row + (i & 2) * 4] : 0.f;
  }
}
__device__ __forceinline__ void store_state(float* to, const float (&state)[kDk / 2], int value,
                                            int warp, int lane) {
  const int row = value + 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) {
    to[(8 * (i / 4) + pair + i % 2) * kDv + row + (i & 2) * 4] = state[i];
  }
}

/// Waits without taking turns from the warps that work: for those that only bring and store.
__device__ __forceinline__ void wait_idle(const Mbarrier& barrier, uint32_t parity) {
  while (!barrier.done(parity)) {
    __nanosleep(100);
  }
}

/// Summaries of segments: what a segment of a chain adds to its last state, as the sums of S^T lie
/// in the registers of a warpgroup, and the segment's log2 decay.
struct Segments {
  float4* sums;       // [chain][segment][64 values][16][128]
  float* decays;      // [chain][segment]
  int count, length;  // segments of a chain, chunks of a segment
  static constexpr int kFloat4 = kDk * kDv / 4;
  __host__ __device__ int64_t at(int64_t chain, int segment) const {
    return chain * count + segment;
  }
};
inline Segments segments_in(const LinearSizes& sizes, int count, void* memory) {
  auto* sums = static_cast<float4*>(memory);
  const std::size_t n = static_cast<std::size_t>(sizes.chains()) * static_cast<std::size_t>(count);
  return {sums, reinterpret_cast<float*>(sums ? sums + n * Segments::kFloat4 : nullptr), count,
          (sizes.chunks() + count - 1) / count};
}
/// Sums over the chunks of every segment but the last (decayed_linear_states.cu).
cudaError_t decayed_linear_sums(const LinearSizes& sizes, const LinearInputs& in,
                                const Segments& segments, cudaStream_t stream);

}  // namespace ls::kernels::decayed_linear
