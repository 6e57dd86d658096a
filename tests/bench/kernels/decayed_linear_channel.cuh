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

/// Factors from block to block, a channel each: root[b] = 2^((M_b - M_(b-1)) / 2) with M_(-1) = 0
/// and M_4 = G_C. They are applied twice: between blocks of strong gates the power itself may be
/// too small for a float while the product of what stands on both of its sides is not.
struct alignas(16) BlockRoots {
  float root[5][kDk];
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

/// By 256 threads, block thread / 64, channels 2 (thread % 64): reads gates, writes roots and,
/// unless null, 2^G_C a channel. After it every thread has read its gates and their place may be
/// written; blocks exchange their sums by way of it and of the roots.
template <int kBarrier>
__device__ __forceinline__ void sum_gates(BlockSums& x, unsigned char* gates, BlockRoots& roots,
                                          float* all, int block, int channel) {
  float2 sum = make_float2(0, 0);
#pragma unroll
  for (int r = 0; r < 16; ++r) {
    const float2 g = bounded_gates(*gate_pair(gates, 16 * block + r, channel));
    sum.x += g.x;
    sum.y += g.y;
    x.sum[r] = sum;
  }
  const auto root = [&](int b) { return reinterpret_cast<float2*>(&roots.root[b][channel]); };
  const float2 half = x.sum[7], rest = make_float2(sum.x - half.x, sum.y - half.y);
  *root(block) = sum;
  *gate_pair(gates, 16 * block, channel) = rest;
  cuda::named_sync(kBarrier, 256);
  x.before = x.all = make_float2(0, 0);
#pragma unroll
  for (int b = 0; b < 4; ++b) {
    const float2 total = *root(b);
    x.all.x += total.x;
    x.all.y += total.y;
    x.before.x += b < block ? total.x : 0.f;
    x.before.y += b < block ? total.y : 0.f;
  }
  float2 step = half;  // from the middle of the block before
  if (block > 0) {
    const float2 y = *gate_pair(gates, 16 * (block - 1), channel);
    step.x += y.x;
    step.y += y.y;
  }
  cuda::named_sync(kBarrier, 256);
  *root(block) = make_float2(cuda::exp2_fast(.5f * step.x), cuda::exp2_fast(.5f * step.y));
  if (block == 3) {
    *root(4) = make_float2(cuda::exp2_fast(.5f * rest.x), cuda::exp2_fast(.5f * rest.y));
    if (all) {
      *reinterpret_cast<float2*>(all + channel) =
          make_float2(cuda::exp2_fast(x.all.x), cuda::exp2_fast(x.all.y));
    }
  }
}

/// Root of the factor from the middle of block `from` to that of a later block (4: to the end of
/// the chunk), for channels `channel` and the next.
__device__ __forceinline__ float2 root_between(const BlockRoots& roots, int from, int to,
                                               int channel) {
  float2 u = *reinterpret_cast<const float2*>(&roots.root[to][channel]);
#pragma unroll
  for (int b = 1; b < 4; ++b) {
    if (from + b < to) {
      const float2 x = *reinterpret_cast<const float2*>(&roots.root[from + b][channel]);
      u.x *= x.x;
      u.y *= x.y;
    }
  }
  return u;
}

/// An operand of 16 rows and 16 channels times the square of a root a channel.
__device__ __forceinline__ void carry_operand(uint32_t (&x)[4], float2 low, float2 high) {
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    const float2 u = m < 2 ? low : high;
    x[m] = cuda::pack_bf16(u.x * (u.x * cuda::low_bf16(x[m])), u.y * (u.y * cuda::high_bf16(x[m])));
  }
}

/// Scores of the queries of block kQuery with the keys of block kKey, by a warp, as an operand;
/// zeros where kKey > kQuery. Blocks are constants: with branches inside, loads would not overlap.
template <int kUnroll, int kQuery, int kKey>
__device__ __forceinline__ void score_block(uint32_t (&p)[4], const unsigned char* queries,
                                            const unsigned char* keys, const BlockRoots& roots,
                                            int lane) {
  p[0] = p[1] = p[2] = p[3] = 0;
  if constexpr (kKey <= kQuery) {
    float d[2][2][4] = {};
#pragma unroll kUnroll
    for (int i = 0; i < 8; ++i) {
      uint32_t x[4], y[4];
      cuda::load_matrices(x, cuda::block_address(cuda::smem_addr(queries) + i / 4 * kTile,
                                                 16 * kQuery, 16 * (i % 4), lane));
      cuda::load_matrices(y, cuda::block_address(cuda::smem_addr(keys) + i / 4 * kTile, 16 * kKey,
                                                 16 * (i % 4), lane));
      if constexpr (kKey < kQuery) {
        float2 u[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int channel = 16 * i + 8 * half + 2 * (lane & 3);
          u[half] = make_float2(1, 1);
#pragma unroll
          for (int b = kKey + 1; b <= kQuery; ++b) {
            const float2 root = *reinterpret_cast<const float2*>(&roots.root[b][channel]);
            u[half].x *= root.x;
            u[half].y *= root.y;
          }
        }
        carry_operand(x, u[0], u[1]);
      }
      cuda::mma_bf16(d[i % 2][0], x, y[0], y[2]);
      cuda::mma_bf16(d[i % 2][1], x, y[1], y[3]);
    }
#pragma unroll
    for (int m = 0; m < 4; ++m) {  // (0,0) (8,0) (0,8) (8,8)
      const int row = (lane >> 2) + m % 2 * 8, column = m / 2 * 8 + 2 * (lane & 3);
      const int i = m % 2 * 2;
      const float u = d[0][m / 2][i] + d[1][m / 2][i], v = d[0][m / 2][i + 1] + d[1][m / 2][i + 1];
      constexpr bool kWhole = kKey < kQuery;
      p[m] =
          cuda::pack_bf16(kWhole || column <= row ? u : 0.f, kWhole || column + 1 <= row ? v : 0.f);
    }
  }
}

/// Sums whose columns are channels times a factor, a channel each.
__device__ __forceinline__ void scale_channels(float (&d)[kDk / 2], const float* by, int lane) {
#pragma unroll
  for (int j = 0; j < kDk / 8; ++j) {
    const float2 x = *reinterpret_cast<const float2*>(by + 8 * j + 2 * (lane & 3));
    d[4 * j] *= x.x;
    d[4 * j + 1] *= x.y;
    d[4 * j + 2] *= x.x;
    d[4 * j + 3] *= x.y;
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
