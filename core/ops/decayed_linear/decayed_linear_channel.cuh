#pragma once
// Gates for each key channel (device/channel_gates.cuh): segments of a chain.
#include "core/backend/cuda/device/channel_gates.cuh"
#include "core/ops/decayed_linear/decayed_linear_hopper.cuh"

namespace ls::kernels::decayed_linear {

/// Summaries of segments as in Segments; the log2 decays are [chain][segment][128].
struct ChannelSegments {
  float4* sums;
  float* decays;
  int count, length;
  __host__ __device__ int64_t at(int64_t chain, int segment) const {
    return chain * count + segment;
  }
};
/// add_segment with decays by channel.
__device__ __forceinline__ void add_channel_segment(float (&state)[kDk / 2],
                                                    const ChannelSegments& s, int64_t record,
                                                    int slice, int thread) {
  const float* const decays = s.decays + record * kDk + 2 * (thread % 4);
  const float4* const sums = s.sums + (record * 2 + slice) * (16 * 128) + thread;
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float4 x = sums[j * 128];
    const float2 g = *reinterpret_cast<const float2*>(decays + 8 * j);
    const float u = cuda::exp2_fast(g.x), v = cuda::exp2_fast(g.y);
    state[4 * j] = u * state[4 * j] + x.x;
    state[4 * j + 1] = v * state[4 * j + 1] + x.y;
    state[4 * j + 2] = u * state[4 * j + 2] + x.z;
    state[4 * j + 3] = v * state[4 * j + 3] + x.w;
  }
}
inline ChannelSegments channel_segments_in(const LinearSizes& sizes, int count, void* memory) {
  auto* sums = static_cast<float4*>(memory);
  const std::size_t n = static_cast<std::size_t>(sizes.chains()) * static_cast<std::size_t>(count);
  return {sums, reinterpret_cast<float*>(sums ? sums + n * Segments::kFloat4 : nullptr), count,
          (sizes.chunks() + count - 1) / count};
}
/// Maps of gates [B,T,heads,Dk] in boxes of 32 channels.
inline cudaError_t encode_lane_gates(CUtensorMap* map, const LinearSizes& z, const float* gates,
                                     int heads) {
  return encode_gates(map, gates, z.batch, z.tokens, heads, z.dk);
}
/// Rows [begin, valid) of four boxes of gates, by a warp, to rows `stride` apart.
__device__ __forceinline__ void copy_gates(float* to, int64_t stride, unsigned char* boxes,
                                           int begin, int valid, int columns, int lane) {
  for (int i = 32 * begin + lane; i < 32 * valid; i += 32) {
    const int row = i / 32, column = i % 32 * 4;
    if (column < columns) {
      *reinterpret_cast<float4*>(to + row * stride + column) =
          *reinterpret_cast<const float4*>(cuda::gate_pair(boxes, row, column));
    }
  }
}
/// Sums over the chunks of every segment but the last (decayed_linear_channel_states.cu).
cudaError_t channel_linear_sums(const LinearSizes& sizes, const ChannelInputs& in,
                                const ChannelSegments& segments, cudaStream_t stream);

}  // namespace ls::kernels::decayed_linear
