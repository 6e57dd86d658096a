// Chunk-parallel part of the gated delta rule's backward: from the states before each chunk, their
// gradients after it, X and dV, the gradients of q, k, beta and g. Persistent CTAs, one chunk and
// head at a time, 64 value columns after 64:
//   warpgroup 0  warp 0 brings tiles (a ring of two, q and k double); warps 1 to 3 make
//                dbeta = dV . X / beta and <S, dS'>
//   warpgroup 1  dP = scale tril(dO W^T * D),  dQ = scale exp(G) dO S^T + dP K
//   warpgroup 2  dM = -tril_-1(dV W^T * D), dK = [dM K - exp(G) dV S^T]
//                                                + [dP^T Q + dM^T K + exp(G_C - G) W dS'^T]
// Bound by memory: about 2.8 KB a token and head at Dk = Dv = 128, of which the states are a third.
#include "gated_delta_kernels.cuh"

namespace ls::kernels {
namespace {

using namespace ls::cuda;
using wgmma::Depth;

constexpr int kAuxWarps = 3;
// Named barriers.
constexpr int kProductsDone = 1, kQueriesOnly = 2, kKeysOnly = 3;

struct alignas(1024) Slice {
  unsigned char s[2 * kTile], ds[2 * kTile], go[kTile], x[kTile], dv[kTile];
};
struct alignas(1024) Tokens {
  unsigned char q[2 * kTile], k[2 * kTile];
  ChunkGates gates;
};
struct Sums {
  float q[64], k[64];      // q . dq and k . (dk reader - dk writer) by token
  float late[4];           // k . W dS'^T, by warp
  float state[kAuxWarps];  // <S, dS'>, by warp
};
struct alignas(1024) Shared {
  Slice slice[2];
  Tokens tokens[2];
  unsigned char dp[kTile], dm[kTile];
  Sums sums[2];
  Mbarrier slice_full[2], slice_free[2], tokens_full[2], tokens_free[2], aux_done[2];
  Mbarrier scores_ready;  // dp
};

struct Arguments {
  const unsigned char* kept;
  Records states, gradients;
  bf16* dbeta;
  float* dg;
  int64_t records;
  int tokens, heads, chunks, dv_size;
  float scale;
};

/// Chunk `r` of the call.
struct Place {
  int chunk, head, b, first;
  __device__ Place(const Arguments& args, int64_t r) {
    chunk = static_cast<int>(r % args.chunks);
    const int chain = static_cast<int>(r / args.chunks);
    head = chain % args.heads;
    b = chain / args.heads;
    first = 64 * chunk;
  }
};

/// Sum over the four lanes that share a row.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// Row sums of a tile pair of bf16 times sums [64][128], for rows `row` and `row` + 8.
__device__ __forceinline__ float2 row_dots(const float (&d)[64], const unsigned char* tiles,
                                           int row, int pair) {
  float2 dot = make_float2(0.f, 0.f);
#pragma unroll
  for (int j = 0; j < 16; ++j) {
    const unsigned char* tile = tiles + j / 8 * kTile;
    const int column = 8 * (j % 8) + pair;
    const auto a = *reinterpret_cast<const uint32_t*>(tile + tile_offset(row, column));
    const auto b = *reinterpret_cast<const uint32_t*>(tile + tile_offset(row + 8, column));
    dot.x += d[4 * j] * low_bf16(a) + d[4 * j + 1] * high_bf16(a);
    dot.y += d[4 * j + 2] * low_bf16(b) + d[4 * j + 3] * high_bf16(b);
  }
  return dot;
}

__device__ __forceinline__ void store_operand(const uint32_t (&a)[4][4], unsigned char* tile,
                                              int warp, int lane) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    store_matrices(block_address(smem_addr(tile), 16 * warp, 16 * i, lane), a[i][0], a[i][1],
                   a[i][2], a[i][3]);
  }
}
__device__ __forceinline__ void store_rows(const float (&d)[64], unsigned char* tiles, int warp,
                                           int lane) {
  uint32_t a[8][4];
  as_operand<8>(a, d);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    store_matrices(block_address(smem_addr(tiles) + i / 4 * kTile, 16 * warp, 16 * (i % 4), lane),
                   a[i][0], a[i][1], a[i][2], a[i][3]);
  }
}

__device__ __forceinline__ float dot8(const uint4& a, const uint4& b) {
  const uint32_t x[] = {a.x, a.y, a.z, a.w}, y[] = {b.x, b.y, b.z, b.w};
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum += low_bf16(x[i]) * low_bf16(y[i]) + high_bf16(x[i]) * high_bf16(y[i]);
  }
  return sum;
}

__device__ __forceinline__ void produce(Shared& s, const CUtensorMap& q, const CUtensorMap& k,
                                        const CUtensorMap& go, const CUtensorMap& dv,
                                        const Arguments& args) {
  const int slices = args.dv_size / 64;
  int step = 0, turn = 0;
  for (int64_t r = blockIdx.x; r < args.records; r += gridDim.x, ++turn) {
    const Place at(args, r);
    Tokens& z = s.tokens[turn % 2];
    Mbarrier& tokens = s.tokens_full[turn % 2];
    if (turn >= 2) {
      s.tokens_free[turn % 2].wait((turn / 2 - 1) & 1);
    }
    tokens.arrive_expect(4 * kTile + sizeof(ChunkGates));
    load_bytes(&z.gates, args.kept + r * DeltaSizes::kKept + 2 * kTile, sizeof(ChunkGates), tokens);
    for (int i = 0; i < 2; ++i) {
      load_box(z.q + i * kTile, &q, tokens, 64 * i, at.head, at.first, at.b);
      load_box(z.k + i * kTile, &k, tokens, 64 * i, at.head, at.first, at.b);
    }
    for (int i = 0; i < slices; ++i, ++step) {
      Slice& y = s.slice[step % 2];
      Mbarrier& full = s.slice_full[step % 2];
      if (step >= 2) {
        s.slice_free[step % 2].wait((step / 2 - 1) & 1);
      }
      full.arrive_expect(7 * kTile);
      load_box(y.go, &go, full, 64 * i, at.head, at.first, at.b);
      load_bytes(y.x, args.states.value(r, i), kTile, full);
      load_box(y.dv, &dv, full, 64 * i, at.head, at.first, at.b);
      load_bytes(y.s, args.states.state(r, i), 2 * kTile, full);
      load_bytes(y.ds, args.gradients.state(r, i), 2 * kTile, full);
    }
  }
}

/// dbeta, <S, dS'>: `id` 0 to 95.
__device__ __forceinline__ void elementwise(Shared& s, const Arguments& args, int id) {
  const int slices = args.dv_size / 64, lane = id % 32;
  constexpr int kThreads = 32 * kAuxWarps, kRows = kThreads / 8;
  int step = 0, turn = 0;
  for (int64_t r = blockIdx.x; r < args.records; r += gridDim.x, ++turn) {
    const Place at(args, r);
    const Tokens& z = s.tokens[turn % 2];
    s.tokens_full[turn % 2].wait((turn / 2) & 1);
    float dbeta[(64 + kRows - 1) / kRows] = {}, inner = 0;
    for (int i = 0; i < slices; ++i, ++step) {
      const Slice& y = s.slice[step % 2];
      s.slice_full[step % 2].wait((step / 2) & 1);
#pragma unroll
      for (int m = 0; m < (64 + kRows - 1) / kRows; ++m) {
        const int row = m * kRows + id / 8;
        if (row < 64) {
          const uint32_t offset = tile_offset(row, 8 * (id % 8));
          dbeta[m] += dot8(*reinterpret_cast<const uint4*>(y.dv + offset),
                           *reinterpret_cast<const uint4*>(y.x + offset));
        }
      }
      for (int m = id; m < 2 * kTile / 16; m += kThreads) {
        inner +=
            dot8(reinterpret_cast<const uint4*>(y.s)[m], reinterpret_cast<const uint4*>(y.ds)[m]);
      }
      __syncwarp();
      if (lane == 0) {
        s.slice_free[step % 2].arrive();
      }
    }
#pragma unroll
    for (int m = 0; m < (64 + kRows - 1) / kRows; ++m) {
      const int row = m * kRows + id / 8;
      float sum = dbeta[m];
#pragma unroll
      for (int step8 = 1; step8 < 8; step8 *= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, step8);
      }
      if (row < 64 && id % 8 == 0 && at.first + row < args.tokens) {
        args.dbeta[(static_cast<int64_t>(at.b) * args.tokens + at.first + row) * args.heads +
                   at.head] = __float2bfloat16(sum / z.gates.beta[row]);
      }
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      inner += __shfl_xor_sync(0xffffffffu, inner, lanes);
    }
    if (lane == 0) {
      s.sums[turn % 2].state[id / 32] = inner;
      s.aux_done[turn % 2].arrive();
      s.tokens_free[turn % 2].arrive();
    }
    __syncwarp();
  }
}

__device__ __forceinline__ void query_side(Shared& s, const CUtensorMap& dq, const Arguments& args,
                                           int warp, int lane) {
  const int slices = args.dv_size / 64, pair = 2 * (lane & 3), row = 16 * warp + (lane >> 2);
  const bool leader = warp == 0 && lane == 0;
  int step = 0, turn = 0;
  for (int64_t r = blockIdx.x; r < args.records; r += gridDim.x, ++turn) {
    const Place at(args, r);
    Tokens& z = s.tokens[turn % 2];
    float p[32], d[64];
    for (int i = 0; i < slices; ++i, ++step) {
      const Slice& y = s.slice[step % 2];
      s.slice_full[step % 2].wait((step / 2) & 1);
      const uint64_t go = wgmma::rows(smem_addr(y.go)), x = wgmma::rows(smem_addr(y.x));
      const uint64_t state = wgmma::columns(smem_addr(y.s), kTile);
      wgmma::hold(p);
      wgmma::hold(d);
      wgmma::fence_sums();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        wgmma::multiply<64, Depth::kRows, Depth::kRows>(p, wgmma::step_rows(go, j),
                                                        wgmma::step_rows(x, j), i > 0 || j > 0);
        wgmma::multiply<kDk, Depth::kRows, Depth::kColumns>(
            d, wgmma::step_rows(go, j), wgmma::step_columns(state, j), i > 0 || j > 0);
      }
      wgmma::commit();
      wgmma::wait<0>();
      wgmma::hold(p);
      wgmma::hold(d);
      if (lane == 0) {
        s.slice_free[step % 2].arrive();
      }
    }
    if (leader && turn > 0) {
      wait_stores_read<0>();  // dQ of the turn before
      s.tokens_free[(turn + 1) % 2].arrive();
    }
    s.tokens_full[turn % 2].wait((turn / 2) & 1);
    const float g0 = z.gates.sum[row], g1 = z.gates.sum[row + 8];
    uint32_t a[4][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int column = 8 * j + pair;
      const float2 g = *reinterpret_cast<const float2*>(z.gates.sum + column);
      const float2 beta = *reinterpret_cast<const float2*>(z.gates.beta + column);
      const float b0 = args.scale * beta.x, b1 = args.scale * beta.y;
      const float x0 = column <= row ? b0 * p[4 * j] * exp2_fast(g0 - g.x) : 0.f;
      const float x1 = column < row ? b1 * p[4 * j + 1] * exp2_fast(g0 - g.y) : 0.f;
      const float x2 = column <= row + 8 ? b0 * p[4 * j + 2] * exp2_fast(g1 - g.x) : 0.f;
      const float x3 = column < row + 8 ? b1 * p[4 * j + 3] * exp2_fast(g1 - g.y) : 0.f;
      a[j / 2][2 * (j % 2)] = pack_bf16(x0, x1);
      a[j / 2][2 * (j % 2) + 1] = pack_bf16(x2, x3);
    }
    store_operand(a, s.dp, warp, lane);
    fence_proxy_async();
    __syncwarp();
    if (lane == 0) {
      s.scores_ready.arrive();
    }
    const float f0 = args.scale * z.gates.begin[row], f1 = args.scale * z.gates.begin[row + 8];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      d[4 * j] *= f0;
      d[4 * j + 1] *= f0;
      d[4 * j + 2] *= f1;
      d[4 * j + 3] *= f1;
    }
    const uint64_t keys = wgmma::columns(smem_addr(z.k), kTile);
    wgmma::hold(d);
    wgmma::hold(a);
    wgmma::fence_sums();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      wgmma::multiply<kDk, Depth::kColumns>(d, a[j], wgmma::step_columns(keys, j), true);
    }
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(d);
    Sums& sums = s.sums[turn % 2];
    const float2 dot = row_dots(d, z.q, row, pair);
    const float dot0 = row_sum(dot.x), dot1 = row_sum(dot.y);
    if ((lane & 3) == 0) {
      sums.q[row] = dot0;
      sums.q[row + 8] = dot1;
    }
    named_sync(kProductsDone, 256);  // q and k have been used
    store_rows(d, z.q, warp, lane);
    fence_proxy_async();
    if (warp == 0 && args.dg) {
      s.aux_done[turn % 2].wait((turn / 2) & 1);
      // Reverse running sum; exp(G_C) S' . dS' enters at the last token.
      const int t = 2 * lane;
      float inner = sums.state[0] + sums.state[1] + sums.state[2];
      inner =
          inner * z.gates.begin[63] + (sums.late[0] + sums.late[1]) + (sums.late[2] + sums.late[3]);
      const float second = sums.q[t + 1] + sums.k[t + 1] + (lane == 31 ? inner : 0.f);
      const float first = sums.q[t] + sums.k[t] + second;
      float sum = first;
#pragma unroll
      for (int n = 1; n < 32; n *= 2) {
        const float after = __shfl_down_sync(0xffffffffu, sum, n);
        sum += lane + n < 32 ? after : 0.f;
      }
      const float after = sum - first;
      const int64_t token =
          (static_cast<int64_t>(at.b) * args.tokens + at.first + t) * args.heads + at.head;
      if (at.first + t < args.tokens) {
        args.dg[token] = sum;
      }
      if (at.first + t + 1 < args.tokens) {
        args.dg[token + args.heads] = after + second;
      }
    }
    named_sync(kQueriesOnly, 128);
    if (leader) {
      for (int i = 0; i < 2; ++i) {
        store_box(&dq, z.q + i * kTile, 64 * i, at.head, at.first, at.b);
      }
      commit_stores();
    }
  }
  if (leader) {
    wait_stores<0>();
  }
}

__device__ __forceinline__ void key_side(Shared& s, const CUtensorMap& dk, const Arguments& args,
                                         int warp, int lane) {
  const int slices = args.dv_size / 64, pair = 2 * (lane & 3), row = 16 * warp + (lane >> 2);
  const bool leader = warp == 0 && lane == 0;
  int step = 0, turn = 0;
  for (int64_t r = blockIdx.x; r < args.records; r += gridDim.x, ++turn) {
    const Place at(args, r);
    Tokens& z = s.tokens[turn % 2];
    float p[32], reader[64], writer[64];
    for (int i = 0; i < slices; ++i, ++step) {
      const Slice& y = s.slice[step % 2];
      s.slice_full[step % 2].wait((step / 2) & 1);
      const uint64_t e = wgmma::rows(smem_addr(y.dv)), x = wgmma::rows(smem_addr(y.x));
      const uint64_t state = wgmma::columns(smem_addr(y.s), kTile);
      const uint64_t gradient = wgmma::columns(smem_addr(y.ds), kTile);
      wgmma::hold(p);
      wgmma::hold(reader);
      wgmma::hold(writer);
      wgmma::fence_sums();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool add = i > 0 || j > 0;
        wgmma::multiply<64, Depth::kRows, Depth::kRows>(p, wgmma::step_rows(e, j),
                                                        wgmma::step_rows(x, j), add);
        wgmma::multiply<kDk, Depth::kRows, Depth::kColumns>(reader, wgmma::step_rows(e, j),
                                                            wgmma::step_columns(state, j), add);
        wgmma::multiply<kDk, Depth::kRows, Depth::kColumns>(writer, wgmma::step_rows(x, j),
                                                            wgmma::step_columns(gradient, j), add);
      }
      wgmma::commit();
      wgmma::wait<0>();
      wgmma::hold(p);
      wgmma::hold(reader);
      wgmma::hold(writer);
      if (lane == 0) {
        s.slice_free[step % 2].arrive();
      }
    }
    if (leader && turn > 0) {
      wait_stores_read<0>();  // dK of the turn before
      s.tokens_free[(turn + 1) % 2].arrive();
    }
    s.tokens_full[turn % 2].wait((turn / 2) & 1);
    const float g0 = z.gates.sum[row], g1 = z.gates.sum[row + 8];
    uint32_t a[4][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int column = 8 * j + pair;
      const float2 g = *reinterpret_cast<const float2*>(z.gates.sum + column);
      const float2 beta = *reinterpret_cast<const float2*>(z.gates.beta + column);
      const float x0 = column < row ? beta.x * p[4 * j] * exp2_fast(g0 - g.x) : 0.f;
      const float x1 = column + 1 < row ? beta.y * p[4 * j + 1] * exp2_fast(g0 - g.y) : 0.f;
      const float x2 = column < row + 8 ? beta.x * p[4 * j + 2] * exp2_fast(g1 - g.x) : 0.f;
      const float x3 = column + 1 < row + 8 ? beta.y * p[4 * j + 3] * exp2_fast(g1 - g.y) : 0.f;
      a[j / 2][2 * (j % 2)] = pack_bf16(-x0, -x1);
      a[j / 2][2 * (j % 2) + 1] = pack_bf16(-x2, -x3);
    }
    store_operand(a, s.dm, warp, lane);
    const float r0 = -z.gates.begin[row], r1 = -z.gates.begin[row + 8];
    const float w0 = z.gates.late[row], w1 = z.gates.late[row + 8];
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      reader[4 * j] *= r0;
      reader[4 * j + 1] *= r0;
      reader[4 * j + 2] *= r1;
      reader[4 * j + 3] *= r1;
      writer[4 * j] *= w0;
      writer[4 * j + 1] *= w0;
      writer[4 * j + 2] *= w1;
      writer[4 * j + 3] *= w1;
    }
    Sums& sums = s.sums[turn % 2];
    {
      const float2 late = row_dots(writer, z.k, row, pair);
      float sum = late.x + late.y;
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
      }
      if (lane == 0) {
        sums.late[warp] = sum;
      }
    }
    fence_proxy_async();
    named_sync(kKeysOnly, 128);  // dm
    s.scores_ready.wait(turn & 1);
    const uint64_t keys = wgmma::columns(smem_addr(z.k), kTile);
    const uint64_t queries = wgmma::columns(smem_addr(z.q), kTile);
    const uint64_t dp = wgmma::columns(smem_addr(s.dp)), dm = wgmma::columns(smem_addr(s.dm));
    wgmma::hold(reader);
    wgmma::hold(writer);
    wgmma::hold(a);
    wgmma::fence_sums();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      wgmma::multiply<kDk, Depth::kColumns>(reader, a[j], wgmma::step_columns(keys, j), true);
      wgmma::multiply<kDk, Depth::kColumns, Depth::kColumns>(writer, wgmma::step_columns(dp, j),
                                                             wgmma::step_columns(queries, j), true);
      wgmma::multiply<kDk, Depth::kColumns, Depth::kColumns>(writer, wgmma::step_columns(dm, j),
                                                             wgmma::step_columns(keys, j), true);
    }
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(reader);
    wgmma::hold(writer);
    const float2 read = row_dots(reader, z.k, row, pair), wrote = row_dots(writer, z.k, row, pair);
    const float dot0 = row_sum(read.x - wrote.x), dot1 = row_sum(read.y - wrote.y);
    if ((lane & 3) == 0) {
      sums.k[row] = dot0;
      sums.k[row + 8] = dot1;
    }
    named_sync(kProductsDone, 256);
#pragma unroll
    for (int j = 0; j < 64; ++j) {
      reader[j] += writer[j];
    }
    store_rows(reader, z.k, warp, lane);
    fence_proxy_async();
    named_sync(kKeysOnly, 128);
    if (leader) {
      for (int i = 0; i < 2; ++i) {
        store_box(&dk, z.k + i * kTile, 64 * i, at.head, at.first, at.b);
      }
      commit_stores();
    }
  }
  if (leader) {
    wait_stores<0>();
  }
}

__global__ void __launch_bounds__(384, 1)
    gradients_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                     const __grid_constant__ CUtensorMap go, const __grid_constant__ CUtensorMap dv,
                     const __grid_constant__ CUtensorMap dq, const __grid_constant__ CUtensorMap dk,
                     const __grid_constant__ Arguments args) {
  extern __shared__ __align__(1024) unsigned char raw[];
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      s.slice_full[i].init(1);
      s.slice_free[i].init(8 + kAuxWarps);
      s.tokens_full[i].init(1);
      s.tokens_free[i].init(2 + kAuxWarps);
      s.aux_done[i].init(kAuxWarps);
    }
    s.scores_ready.init(4);
    fence_barrier_init();
  }
  __syncthreads();
  if (warp < 4) {
    fewer_registers<88>();
    if (warp == 0) {
      if (lane == 0) {
        produce(s, q, k, go, dv, args);
      }
    } else {
      elementwise(s, args, threadIdx.x - 32);
    }
  } else if (warp < 8) {
    more_registers<208>();
    query_side(s, dq, args, warp - 4, lane);
  } else {
    more_registers<208>();
    key_side(s, dk, args, warp - 8, lane);
  }
}

}  // namespace

cudaError_t gated_delta_gradients(const DeltaSizes& z, const DeltaInputs& in, const bf16* go,
                                  const void* kept, void* states, void* gradients,
                                  const DeltaGradients& out, cudaStream_t stream) {
  CUtensorMap q, k, o, dv, dq, dk;
  if (const cudaError_t e = encode_rows(&q, in.q, z.batch, z.tokens, z.heads, kDk)) return e;
  if (const cudaError_t e = encode_rows(&k, in.k, z.batch, z.tokens, z.heads, kDk)) return e;
  if (const cudaError_t e = encode_rows(&o, go, z.batch, z.tokens, z.heads, z.dv)) return e;
  if (const cudaError_t e = encode_rows(&dv, out.v, z.batch, z.tokens, z.heads, z.dv)) return e;
  if (const cudaError_t e = encode_rows(&dq, out.q, z.batch, z.tokens, z.heads, kDk)) return e;
  if (const cudaError_t e = encode_rows(&dk, out.k, z.batch, z.tokens, z.heads, kDk)) return e;
  constexpr int kBytes = sizeof(Shared);
  static_assert(kBytes <= 227 * 1024);
  if (const cudaError_t e = allow_shared(gradients_kernel, kBytes)) return e;
  const Arguments args{static_cast<const unsigned char*>(kept),
                       records_in(z, states),
                       records_in(z, gradients),
                       out.beta,
                       out.g,
                       static_cast<int64_t>(z.records()),
                       z.tokens,
                       z.heads,
                       z.chunks(),
                       z.dv,
                       z.scale};
  int processors = 0;
  if (const cudaError_t e = processor_count(&processors)) return e;
  const int64_t grid = args.records < processors ? args.records : processors;
  gradients_kernel<<<static_cast<unsigned>(grid), 384, kBytes, stream>>>(q, k, o, dv, dq, dk, args);
  return cudaGetLastError();
}

}  // namespace ls::kernels
