#pragma once
// Gates for each key channel: what the kernels share.
//
// A chunk of 64 tokens is four blocks of 16. With G the running sum of log2 decays in the chunk and
// M_b its value in the middle of block b (after 8 of its tokens), queries and keys are rewritten
// once as
//   q' = scale q 2^(G - M_b)    k' = k 2^(M_b - G)
// in which no exponent exceeds the decay of 8 tokens, kept under 2^100 by the bound on a token's
// gate; every other power is that of a difference M_b - M_c <= 0 between blocks, a channel each:
//   scores of block b to an earlier c   (q'_b 2^(M_b - M_c)) k'_c^T
//   reading the state before the chunk   q' 2^M_b
//   writing the state after it           k' 2^(G_C - M_b)
#include "decayed_linear_kernels.cuh"

namespace ls::kernels {

inline constexpr float kLeastGate = -12.3f;  // log2 a token: 8 of them stay above -100

/// Boxes of 32 channels and 64 tokens of one head of f32 [B,T,H,128], 128 bytes a row, swizzled.
inline cudaError_t encode_gates(CUtensorMap* map, const float* data, const LinearSizes& z) {
  using Encode = decltype(&cuTensorMapEncodeTiled);
  static const Encode encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &found);
    return error == cudaSuccess && found == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(entry)
               : nullptr;
  }();
  if (!encode) {
    return cudaErrorNotSupported;
  }
  const auto size = [](int n) { return static_cast<cuuint64_t>(n); };
  const cuuint64_t extents[] = {size(kDk), size(z.heads), size(z.tokens), size(z.batch)};
  const cuuint64_t row = kDk * sizeof(float);
  const cuuint64_t strides[] = {row, row * size(z.heads), row * size(z.heads) * size(z.tokens)};
  const cuuint32_t box[] = {32, 1, 64, 1};
  const cuuint32_t steps[] = {1, 1, 1, 1};
  const CUresult result =
      encode(map, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4, const_cast<float*>(data), extents, strides,
             box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

/// Channels `channel` (even) and the next of a token, in four boxes of gates.
__device__ __forceinline__ float2* gate_pair(unsigned char* gates, int token, int channel) {
  return reinterpret_cast<float2*>(gates + channel / 32 * kTile + token * 128 +
                                   ((channel % 32 * 4) ^ ((token & 7) << 4)));
}
/// The same of a [64][128] bf16 matrix in two tiles.
__device__ __forceinline__ uint32_t* value_pair(unsigned char* tiles, int token, int channel) {
  return reinterpret_cast<uint32_t*>(tiles + channel / 64 * kTile +
                                     cuda::tile_offset(token, channel % 64));
}

/// Sums of a chunk's gates, log2: M_b in the middle of its blocks, and G_C.
struct alignas(16) BlockMarks {
  float middle[4][kDk];
  float all[kDk];
};

/// A token's gates as log2, bounded.
__device__ __forceinline__ float2 bounded_gates(float2 g) {
  constexpr float kLog2e = 1.4426950408889634f;
  return make_float2(fmaxf(g.x * kLog2e, kLeastGate), fmaxf(g.y * kLog2e, kLeastGate));
}

/// What a thread of 256 knows of its block of 16 tokens and its two channels.
struct BlockSums {
  float2 sum[16];  // within the block, inclusive
  float2 before;   // G at the block's start
  float2 all;      // G_C
};

/// By 256 threads, block thread / 64, channels 2 (thread % 64): reads gates, exchanges the blocks'
/// totals through marks.middle. After it every thread has read its gates.
template <int kBarrier>
__device__ __forceinline__ void sum_gates(BlockSums& x, unsigned char* gates, BlockMarks& marks,
                                          int block, int channel) {
  float2 sum = make_float2(0, 0);
#pragma unroll
  for (int r = 0; r < 16; ++r) {
    const float2 g = bounded_gates(*gate_pair(gates, 16 * block + r, channel));
    sum.x += g.x;
    sum.y += g.y;
    x.sum[r] = sum;
  }
  *reinterpret_cast<float2*>(&marks.middle[block][channel]) = sum;
  cuda::named_sync(kBarrier, 256);
  x.before = x.all = make_float2(0, 0);
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    const float2 total = *reinterpret_cast<const float2*>(&marks.middle[b][channel]);
    x.all.x += total.x;
    x.all.y += total.y;
    if (b < block) {
      x.before.x += total.x;
      x.before.y += total.y;
    }
  }
  cuda::named_sync(kBarrier, 256);
  *reinterpret_cast<float2*>(&marks.middle[block][channel]) =
      make_float2(x.before.x + x.sum[7].x, x.before.y + x.sum[7].y);
  if (block == 3) {
    *reinterpret_cast<float2*>(&marks.all[channel]) = x.all;
  }
}

/// An operand of 16 rows and 16 channels from `first` times 2^(high - low), a channel each. In two
/// steps: between blocks of strong gates the power may be too small for a float while the product
/// of what stands on both of its sides is not.
__device__ __forceinline__ void weigh_channels(uint32_t (&x)[4], const float* high,
                                               const float* low, int first, int lane) {
  const int channel = first + 2 * (lane & 3);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float2 a = *reinterpret_cast<const float2*>(high + channel + 8 * half);
    const float2 b = *reinterpret_cast<const float2*>(low + channel + 8 * half);
    const float u = cuda::exp2_fast(.5f * (a.x - b.x)), v = cuda::exp2_fast(.5f * (a.y - b.y));
#pragma unroll
    for (int m = 2 * half; m < 2 * half + 2; ++m) {
      x[m] = cuda::pack_bf16(u * (u * cuda::low_bf16(x[m])), v * (v * cuda::high_bf16(x[m])));
    }
  }
}

/// Scores of this warp's block with block `other` as operands of a product over tokens; by warps.
/// kTransposed: a is k', b is q', other >= warp; else a is q', b is k', other <= warp.
template <bool kTransposed>
__device__ __forceinline__ void channel_scores(uint32_t (&p)[4], const unsigned char* a,
                                               const unsigned char* b, const BlockMarks& marks,
                                               int other, int warp, int lane) {
  const float* high = marks.middle[kTransposed ? other : warp];
  const float* low = marks.middle[kTransposed ? warp : other];
  float d[2][4] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    uint32_t x[4], y[4];
    cuda::load_matrices(
        x, cuda::block_address(cuda::smem_addr(a) + i / 4 * kTile, 16 * warp, 16 * (i % 4), lane));
    if (other != warp) {
      weigh_channels(x, high, low, 16 * i, lane);
    }
    cuda::load_matrices(
        y, cuda::block_address(cuda::smem_addr(b) + i / 4 * kTile, 16 * other, 16 * (i % 4), lane));
    cuda::mma_bf16(d[0], x, y[0], y[2]);
    cuda::mma_bf16(d[1], x, y[1], y[3]);
  }
  if (other == warp) {
    const int row = lane >> 2, pair = 2 * (lane & 3);
#pragma unroll
    for (int n = 0; n < 2; ++n) {
#pragma unroll
      for (int m = 0; m < 4; ++m) {
        const int r = row + m / 2 * 8, c = 8 * n + pair + m % 2;
        d[n][m] = (kTransposed ? r <= c : c <= r) ? d[n][m] : 0.f;
      }
    }
  }
  p[0] = cuda::pack_bf16(d[0][0], d[0][1]);
  p[1] = cuda::pack_bf16(d[0][2], d[0][3]);
  p[2] = cuda::pack_bf16(d[1][0], d[1][1]);
  p[3] = cuda::pack_bf16(d[1][2], d[1][3]);
}

/// Sums whose columns are channels times 2^(high - low), a channel each, in two steps like
/// weigh_channels; without low, 2^high.
__device__ __forceinline__ void scale_channels(float (&d)[kDk / 2], const float* high,
                                               const float* low, int lane) {
  const int pair = 2 * (lane & 3);
#pragma unroll
  for (int j = 0; j < kDk / 8; ++j) {
    const float2 x = *reinterpret_cast<const float2*>(high + 8 * j + pair);
    if (low) {
      const float2 y = *reinterpret_cast<const float2*>(low + 8 * j + pair);
      const float u = cuda::exp2_fast(.5f * (x.x - y.x)), v = cuda::exp2_fast(.5f * (x.y - y.y));
      d[4 * j] *= u;
      d[4 * j + 1] *= v;
      d[4 * j + 2] *= u;
      d[4 * j + 3] *= v;
      d[4 * j] *= u;
      d[4 * j + 1] *= v;
      d[4 * j + 2] *= u;
      d[4 * j + 3] *= v;
    } else {
      const float u = cuda::exp2_fast(x.x), v = cuda::exp2_fast(x.y);
      d[4 * j] *= u;
      d[4 * j + 1] *= v;
      d[4 * j + 2] *= u;
      d[4 * j + 3] *= v;
    }
  }
}

/// Summaries of segments as in Segments; the log2 decays are [chain][segment][128].
struct ChannelSegments {
  float4* sums;
  float* decays;
  int count, length;
  __host__ __device__ int64_t at(int64_t chain, int segment) const {
    return chain * count + segment;
  }
};
inline ChannelSegments channel_segments_in(const LinearSizes& sizes, int count, void* memory) {
  auto* sums = static_cast<float4*>(memory);
  const std::size_t n = static_cast<std::size_t>(sizes.chains()) * static_cast<std::size_t>(count);
  return {sums, reinterpret_cast<float*>(sums ? sums + n * Segments::kFloat4 : nullptr), count,
          (sizes.chunks() + count - 1) / count};
}
/// Sums over the chunks of every segment but the last (decayed_linear_channel_states.cu).
cudaError_t channel_linear_sums(const LinearSizes& sizes, const ChannelInputs& in,
                                const ChannelSegments& segments, cudaStream_t stream);

}  // namespace ls::kernels
