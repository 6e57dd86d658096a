#pragma once
// Gates for each key channel: chunks, in shared memory and in registers.
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
#include "core/backend/cuda/device/tile.cuh"

namespace ls::cuda {

inline constexpr int kChannels = 128;
inline constexpr float kLeastGate = -12.3f;  // log2 a token: 8 of them stay above -100

/// Channels `channel` (even) and the next of a token, in four boxes of gates.
__device__ __forceinline__ float2* gate_pair(unsigned char* gates, int token, int channel) {
  return reinterpret_cast<float2*>(gates + channel / 32 * kTileBytes<64> + token * 128 +
                                   ((channel % 32 * 4) ^ ((token & 7) << 4)));
}
/// The same of a [64][128] bf16 matrix in two tiles.
__device__ __forceinline__ uint32_t* value_pair(unsigned char* tiles, int token, int channel) {
  return reinterpret_cast<uint32_t*>(tiles + channel / 64 * kTileBytes<64> +
                                     tile_offset(token, channel % 64));
}

/// Factors from block to block, a channel each: root[b] = 2^((M_b - M_(b-1)) / 2) with M_(-1) = 0
/// and M_4 = G_C. They are applied twice: between blocks of strong gates the power itself may be
/// too small for a float while the product of what stands on both of its sides is not.
struct alignas(16) BlockRoots {
  float root[5][kChannels];
};

/// A token's gates as log2, bounded.
__device__ __forceinline__ float2 bounded_gates(float2 g) {
  return make_float2(fmaxf(g.x * kLog2e, kLeastGate), fmaxf(g.y * kLog2e, kLeastGate));
}

/// What a thread of 256 knows of its block of 16 tokens and its two channels.
struct BlockSums {
  float2 sum[16];  // within the block, inclusive
  float2 before;   // G at the block's start
  float2 all;      // G_C
};

/// Zeros in two channels of tokens from `valid` on of [first, first + count): gates, and two
/// matrices. By the thread that goes on with these tokens and channels.
__device__ __forceinline__ void clear_tokens(unsigned char* gates, unsigned char* x,
                                             unsigned char* y, int first, int count, int channel,
                                             int valid) {
  for (int t = max(first, valid); t < first + count; ++t) {
    *gate_pair(gates, t, channel) = make_float2(0, 0);
    *value_pair(x, t, channel) = 0;
    *value_pair(y, t, channel) = 0;
  }
}

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
  named_sync(kBarrier, 256);
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
  named_sync(kBarrier, 256);
  *root(block) = make_float2(exp2_fast(.5f * step.x), exp2_fast(.5f * step.y));
  if (block == 3) {
    *root(4) = make_float2(exp2_fast(.5f * rest.x), exp2_fast(.5f * rest.y));
    if (all) {
      *reinterpret_cast<float2*>(all + channel) =
          make_float2(exp2_fast(x.all.x), exp2_fast(x.all.y));
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
    x[m] = pack_bf16(u.x * (u.x * low_bf16(x[m])), u.y * (u.y * high_bf16(x[m])));
  }
}

/// Sums of scores of the queries of block kQuery with the keys of block kKey <= kQuery, by a warp:
/// value(m, i) is element i of matrix m of an operand. Blocks are constants: with branches inside,
/// loads would not overlap.
struct ScoreSums {
  float d[2][2][4];
  __device__ __forceinline__ float value(int m, int i) const {
    return d[0][m / 2][m % 2 * 2 + i] + d[1][m / 2][m % 2 * 2 + i];
  }
};
template <int kUnroll, int kQuery, int kKey>
__device__ __forceinline__ void score_sums(ScoreSums& sums, const unsigned char* queries,
                                           const unsigned char* keys, const BlockRoots& roots,
                                           int lane) {
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    sums.d[i / 8][i / 4 % 2][i % 4] = 0;
  }
#pragma unroll kUnroll
  for (int i = 0; i < 8; ++i) {
    uint32_t x[4], y[4];
    load_matrices(x, block_address(smem_addr(queries) + i / 4 * kTileBytes<64>, 16 * kQuery,
                                   16 * (i % 4), lane));
    load_matrices(
        y, block_address(smem_addr(keys) + i / 4 * kTileBytes<64>, 16 * kKey, 16 * (i % 4), lane));
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
    mma_bf16(sums.d[i % 2][0], x, y[0], y[2]);
    mma_bf16(sums.d[i % 2][1], x, y[1], y[3]);
  }
}

/// The same as an operand; zeros where kKey > kQuery.
template <int kUnroll, int kQuery, int kKey>
__device__ __forceinline__ void score_block(uint32_t (&p)[4], const unsigned char* queries,
                                            const unsigned char* keys, const BlockRoots& roots,
                                            int lane) {
  p[0] = p[1] = p[2] = p[3] = 0;
  if constexpr (kKey <= kQuery) {
    ScoreSums sums;
    score_sums<kUnroll, kQuery, kKey>(sums, queries, keys, roots, lane);
#pragma unroll
    for (int m = 0; m < 4; ++m) {  // (0,0) (8,0) (0,8) (8,8)
      const int row = (lane >> 2) + m % 2 * 8, column = m / 2 * 8 + 2 * (lane & 3);
      const float u = sums.value(m, 0), v = sums.value(m, 1);
      constexpr bool kWhole = kKey < kQuery;
      p[m] = pack_bf16(kWhole || column <= row ? u : 0.f, kWhole || column + 1 <= row ? v : 0.f);
    }
  }
}

/// Sums whose columns are channels times a factor, a channel each.
__device__ __forceinline__ void scale_channels(float (&d)[kChannels / 2], const float* by,
                                               int lane) {
#pragma unroll
  for (int j = 0; j < kChannels / 8; ++j) {
    const float2 x = *reinterpret_cast<const float2*>(by + 8 * j + 2 * (lane & 3));
    d[4 * j] *= x.x;
    d[4 * j + 1] *= x.y;
    d[4 * j + 2] *= x.x;
    d[4 * j + 3] *= x.y;
  }
}

/// d += a (16 x 16 tokens) times rows 16 block.. of a [64][128] matrix, by a warp.
__device__ __forceinline__ void add_block(float (&d)[64], const uint32_t (&a)[4],
                                          const unsigned char* tiles, int block, int lane) {
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    uint32_t b[4];
    load_matrices_t(b, block_address(smem_addr(tiles) + j / 4 * kTileBytes<64>, 16 * block,
                                     16 * (j % 4), lane));
    mma_bf16(reinterpret_cast<float(&)[4]>(d[8 * j]), a, b[0], b[1]);
    mma_bf16(reinterpret_cast<float(&)[4]>(d[8 * j + 4]), a, b[2], b[3]);
  }
}

/// Sums whose columns are channels, carried over a step of blocks.
__device__ __forceinline__ void carry_sums(float (&d)[64], const float (&root)[kChannels],
                                           int lane) {
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const float2 u = *reinterpret_cast<const float2*>(root + 8 * j + 2 * (lane & 3));
    d[4 * j] = u.x * (u.x * d[4 * j]);
    d[4 * j + 1] = u.y * (u.y * d[4 * j + 1]);
    d[4 * j + 2] = u.x * (u.x * d[4 * j + 2]);
    d[4 * j + 3] = u.y * (u.y * d[4 * j + 3]);
  }
}

/// Packs scale 2^(sign (G - M)) d and puts rows of x (q' or k') times d in its place.
template <int kSign>
__device__ __forceinline__ void finish_rows(uint32_t (&to)[8][4], float (&d)[64],
                                            const unsigned char* x, unsigned char* gates,
                                            float scale, int warp, int lane) {
  const int row = 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    uint32_t e[4];
    load_matrices(
        e, block_address(smem_addr(x) + j / 4 * kTileBytes<64>, 16 * warp, 16 * (j % 4), lane));
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const float2 g = *gate_pair(gates, row + m % 2 * 8, 16 * j + m / 2 * 8 + pair);
      float &u = d[8 * j + 2 * m], &v = d[8 * j + 2 * m + 1];
      to[j][m] = pack_bf16(scale * exp2_fast(kSign * g.x) * u, scale * exp2_fast(kSign * g.y) * v);
      u *= low_bf16(e[m]);
      v *= high_bf16(e[m]);
    }
  }
}

/// Exchanges half of x with the lane that differs in kBit: this lane's half of the sums.
template <int kHalf, int kBit, int N>
__device__ __forceinline__ void fold(float (&x)[N], int lane) {
  const bool upper = lane & kBit;
#pragma unroll
  for (int i = 0; i < kHalf; ++i) {
    const float send = upper ? x[i] : x[kHalf + i];
    const float keep = upper ? x[kHalf + i] : x[i];
    x[i] = keep + __shfl_xor_sync(0xffffffffu, send, kBit);
  }
}

/// Sums of x over the 8 lanes that differ in lane / 4: to holds x[4 (lane / 4)] and the next 3.
__device__ __forceinline__ void reduce_rows(float (&to)[4], float (&x)[32], int lane) {
  fold<16, 16>(x, lane);
  fold<8, 8>(x, lane);
  fold<4, 4>(x, lane);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[i] = x[i];
  }
}

}  // namespace ls::cuda
