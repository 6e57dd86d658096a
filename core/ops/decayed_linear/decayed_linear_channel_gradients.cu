// Gradients of decayed linear attention with a gate for each key channel, chunk by chunk, from the
// states S before each chunk and the gradients dS of the states after it
// (decayed_linear_channel_states.cu). A persistent CTA takes chunks of 64 tokens one after the
// other; tiles of the next one arrive meanwhile.
//   warpgroup 0  dQ: sums over earlier blocks c of 16 tokens, first the state's part, then
//                X = X 2^(M_c - M_(c-1)) + dP_c k'_c up to its own; dq = scale 2^(G - M_b) X
//   warpgroup 1  dK: likewise from the end of the chunk, dP^T and q'; dk = 2^(M_b - G) X
//   warpgroup 2  dV = (k' 2^(G_C - M)) dS + P^T dO
//   warpgroup 3  with 2: q, k, gates rewritten in place (decayed_linear_channel.cuh) to q', k',
//                G - M; blocks of P into the place of V; then <S, dS> and the gate's gradient
//   warpgroup 4  a warp each for tiles, states and gates, stores
// The gate's gradient is that of the scalar gate (decayed_linear_gradients.cu), channel by channel:
// q dq = q' X and k dk = k' X are exact where they must cancel, as both multiply the same rounded
// factors. Outputs leave from the places of the inputs.
// Moves q, k, v, dO, g and both states in and dq, dk, dv, dg out once: 3840 bytes a token and head.
#include "core/ops/decayed_linear/decayed_linear_channel.cuh"

namespace ls::kernels::decayed_linear {
namespace {

using namespace ls::cuda;

struct alignas(1024) Stage {
  unsigned char q[2 * kTile], k[2 * kTile];  // q', k'; then dq, dk
  unsigned char v[2 * kTile];                // V; then terms of the gates' gradient, and P
  unsigned char go[2 * kTile];               // dO; then dv
};
struct Shared {
  Stage stage[2];
  alignas(1024) unsigned char g[4 * kTile];  // gates; then G - M; then q dq - k dk; then dg
  alignas(1024) unsigned char state[kStateBytes], dstate[kStateBytes];
  BlockRoots roots;
  Mbarrier full[2], free[2];
  Mbarrier gates_full, gates_free, state_full, state_free, ready, values_read, out, gates_out;
};
constexpr int kAll = 1, kQueries = 2, kKeys = 3, kScores = 4, kGates = 5;  // named barriers

struct Arguments {
  const unsigned char *states, *dstates;
  bf16 *dq, *dk, *dv;  // of lanes
  float* dg;           // [B,T,lanes,Dk]
  Lanes lanes;
  int64_t count;  // records of all chains
  float scale;
};

/// Eight tokens from `first`, two channels: gates to G - M, q to q', k to k'. Returns the gates'
/// sum. kBefore: the tokens before the middle of their block.
template <bool kBefore>
__device__ __forceinline__ float2 rewrite_half(Shared& s, Stage& z, float scale, int first,
                                               int channel) {
  float2 at[8];
  float2 sum = make_float2(0, 0);
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    at[r] = *gate_pair(s.g, first + r, channel);
  }
#pragma unroll
  for (int r = 0; r < 8; ++r) {
    const float2 g = bounded_gates(at[r]);
    sum.x += g.x;
    sum.y += g.y;
    at[r] = sum;
  }
  // Loads of a few tokens before their stores: the compiler cannot tell them apart.
#pragma unroll
  for (int begin = 0; begin < 8; begin += 4) {
    uint32_t q[4], k[4];
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      q[r] = *value_pair(z.q, first + begin + r, channel);
      k[r] = *value_pair(z.k, first + begin + r, channel);
    }
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int token = first + begin + r;
      float2 x = at[begin + r];
      if constexpr (kBefore) {
        x.x -= sum.x;
        x.y -= sum.y;
      }
      *gate_pair(s.g, token, channel) = x;
      *value_pair(z.q, token, channel) = pack_bf16(scale * low_bf16(q[r]) * exp2_fast(x.x),
                                                   scale * high_bf16(q[r]) * exp2_fast(x.y));
      *value_pair(z.k, token, channel) =
          pack_bf16(low_bf16(k[r]) * exp2_fast(-x.x), high_bf16(k[r]) * exp2_fast(-x.y));
    }
  }
  return sum;
}

/// By warpgroups 2 and 3: a thread has two channels from the middle of a block to that of the next
/// (the first 64 threads: both ends of the chunk), so that nothing is exchanged.
__device__ __forceinline__ void rewrite(Shared& s, Stage& z, int tail, float scale, int thread) {
  const int block = thread / 64, channel = thread % 64 * 2;
  const int before = block ? 16 * block - 8 : 56;
  if (tail < 64) {
    clear_tokens(s.g, z.q, z.k, before, 8, channel, tail);
    clear_tokens(s.g, z.q, z.k, 16 * block, 8, channel, tail);
  }
  const float2 x = rewrite_half<false>(s, z, scale, before, channel);
  const float2 y = rewrite_half<true>(s, z, scale, 16 * block, channel);
  const auto write = [&](int b, float u, float v) {
    *reinterpret_cast<float2*>(&s.roots.root[b][channel]) =
        make_float2(exp2_fast(.5f * u), exp2_fast(.5f * v));
  };
  if (block) {
    write(block, x.x + y.x, x.y + y.y);
  } else {
    write(0, y.x, y.y);
    write(4, x.x, x.y);
  }
  fence_proxy_async();
  __syncwarp();
  if (thread % 32 == 0) {
    s.ready.arrive();
  }
}

/// Scores of this warp's rows as operands, zero above the diagonal (kTransposed: below it).
template <bool kTransposed>
__device__ __forceinline__ void mask_scores(uint32_t (&p)[4][4], const float (&d)[32], int warp,
                                            int lane) {
  const int row = 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
  const auto value = [&](int i) {
    const int r = row + i % 4 / 2 * 8, c = 8 * (i / 4) + pair + i % 2;
    return (kTransposed ? r <= c : c <= r) ? d[i] : 0.f;
  };
#pragma unroll
  for (int i = 0; i < 16; ++i) {
    p[i / 4][i % 4] = pack_bf16(value(2 * i), value(2 * i + 1));
  }
}

__device__ __forceinline__ void announce(Mbarrier& to, int lane) {
  fence_proxy_async();
  __syncwarp();
  if (lane == 0) {
    to.arrive();
  }
}

/// The state's part for warpgroups 0 and 1: scores = a b^T, sums = a state^T.
__device__ __forceinline__ void start_rows(float (&score)[32], float (&d)[64], Shared& s, int n,
                                           const unsigned char* a, const unsigned char* b,
                                           const unsigned char* state, int lane) {
  s.full[n % 2].wait(this_turn<2>(n));
  wgmma::fence_sums();
  multiply_rows(score, a, b);
  wgmma::commit();
  s.state_full.wait(n & 1);
  const uint64_t x = wgmma::rows(smem_addr(a)), y = wgmma::columns(smem_addr(state), 2 * kTile);
  wgmma::fence_sums();
#pragma unroll
  for (int j = 0; j < 8; ++j) {
    wgmma::multiply<128, Depth::kRows, Depth::kColumns>(d, wgmma::step_rows(x, j),
                                                        wgmma::step_columns(y, j), j > 0);
  }
  wgmma::commit();
  wgmma::wait<0>();
  wgmma::hold(score);
  wgmma::hold(d);
  __syncwarp();
  if (lane == 0) {
    s.values_read.arrive();
    s.state_free.arrive();
  }
}

template <bool kCuts>
__device__ __forceinline__ void run_queries(Shared& s, const Arguments& args, int warp, int lane) {
  int n = 0;
  for (ChunkTurns<kCuts> turn(args.lanes.layout, args.count); turn.more(); turn.next(), ++n) {
    Stage& z = s.stage[n % 2];
    float d[64];
    uint32_t p[4][4];
    {
      float score[32];
      start_rows(score, d, s, n, z.go, z.v, s.state, lane);
      mask_scores<false>(p, score, warp, lane);
    }
    s.gates_full.wait(n & 1);
    s.ready.wait(n & 1);
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (c <= warp) {
        carry_sums(d, s.roots.root[c], lane);
        add_block(d, p[c], z.k, c, lane);
      }
    }
    uint32_t dq[8][4];
    finish_rows<1>(dq, d, z.q, s.g, args.scale, warp, lane);
    named_sync(kAll, 384);
    store_operands(z.q, dq, warp, lane);
    const int row = 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      *gate_pair(s.g, row, 8 * j + pair) = make_float2(d[4 * j], d[4 * j + 1]);
      *gate_pair(s.g, row + 8, 8 * j + pair) = make_float2(d[4 * j + 2], d[4 * j + 3]);
    }
    named_arrive(kQueries, 256);
    announce(s.out, lane);
  }
}

template <bool kCuts>
__device__ __forceinline__ void run_keys(Shared& s, const Arguments& args, int warp, int lane) {
  int n = 0;
  const int pair = 2 * (lane & 3);
  for (ChunkTurns<kCuts> turn(args.lanes.layout, args.count); turn.more(); turn.next(), ++n) {
    Stage& z = s.stage[n % 2];
    float d[64], written[4];
    uint32_t p[4][4];
    {
      float score[32];
      start_rows(score, d, s, n, z.v, z.go, s.dstate, lane);
      mask_scores<true>(p, score, warp, lane);
    }
    s.gates_full.wait(n & 1);
    s.ready.wait(n & 1);
    {
      // k dk from the state, summed over tokens: a channel's factor to the chunk's end comes last.
      float x[32];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        uint32_t e[4];
        load_matrices(e,
                      block_address(smem_addr(z.k) + j / 4 * kTile, 16 * warp, 16 * (j % 4), lane));
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          x[4 * j + 2 * m] =
              d[8 * j + 4 * m] * low_bf16(e[2 * m]) + d[8 * j + 4 * m + 2] * low_bf16(e[2 * m + 1]);
          x[4 * j + 2 * m + 1] = d[8 * j + 4 * m + 1] * high_bf16(e[2 * m]) +
                                 d[8 * j + 4 * m + 3] * high_bf16(e[2 * m + 1]);
        }
      }
      reduce_rows(written, x, lane);
    }
    // This lane has values 4 (lane / 4): column pairs of j = 2 (lane / 4) and the next.
    const int channel = 16 * (lane >> 2) + pair;
#pragma unroll
    for (int m = 0; m < 4; m += 2) {
      const float2 u = root_between(s.roots, warp, 4, channel + 4 * m);
      written[m] *= u.x * u.x;
      written[m + 1] *= u.y * u.y;
    }
#pragma unroll
    for (int c = 3; c >= 0; --c) {
      if (c >= warp) {
        carry_sums(d, s.roots.root[c + 1], lane);
        add_block(d, p[c], z.q, c, lane);
      }
    }
    uint32_t dk[8][4];
    finish_rows<-1>(dk, d, z.k, s.g, 1.f, warp, lane);
    named_sync(kAll, 384);
    store_operands(z.k, dk, warp, lane);
    auto* const terms = reinterpret_cast<float*>(z.v) + warp * kDk;
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      terms[channel + m / 2 * 8 + m % 2] = written[m];
    }
    announce(s.out, lane);
    named_sync(kQueries, 256);
    const int row = 16 * warp + (lane >> 2);
#pragma unroll
    for (int first = 0; first < 16; first += 4) {
      float2 x[4], y[4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        x[j] = *gate_pair(s.g, row, 8 * (first + j) + pair);
        y[j] = *gate_pair(s.g, row + 8, 8 * (first + j) + pair);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float* e = d + 4 * (first + j);
        *gate_pair(s.g, row, 8 * (first + j) + pair) = make_float2(x[j].x - e[0], x[j].y - e[1]);
        *gate_pair(s.g, row + 8, 8 * (first + j) + pair) =
            make_float2(y[j].x - e[2], y[j].y - e[3]);
      }
    }
    named_arrive(kKeys, 256);
  }
}

/// Blocks 4 t + s of P, by a warp.
template <int... kBlocks>
__device__ __forceinline__ void score_warp(Stage& z, const BlockRoots& roots, int lane) {
  const auto store = [&](int block, const uint32_t(&x)[4]) {
    store_matrices(block_address(smem_addr(z.v + kTile), block / 4 * 16, block % 4 * 16, lane),
                   x[0], x[1], x[2], x[3]);
  };
  uint32_t p[sizeof...(kBlocks)][4];
  int i = 0;
  (score_block<2, kBlocks / 4, kBlocks % 4>(p[i++], z.q, z.k, roots, lane), ...);
  i = 0;
  (store(kBlocks, p[i++]), ...);
}

/// P in the place of V, once that has been read.
__device__ __forceinline__ void make_scores(Shared& s, Stage& z, int n, int warp, int lane) {
  s.values_read.wait(n & 1);
  switch (warp) {
    case 0:
      score_warp<13, 1>(z, s.roots, lane);
      break;
    case 1:
      score_warp<14, 2>(z, s.roots, lane);
      break;
    case 2:
      score_warp<10, 3>(z, s.roots, lane);
      break;
    case 3:
      score_warp<15, 6>(z, s.roots, lane);
      break;
    case 4:
      score_warp<4, 0>(z, s.roots, lane);
      break;
    case 5:
      score_warp<8, 5>(z, s.roots, lane);
      break;
    case 6:
      score_warp<9, 7>(z, s.roots, lane);
      break;
    default:
      score_warp<12, 11>(z, s.roots, lane);
  }
  fence_proxy_async();
}

template <bool kCuts>
__device__ __forceinline__ void run_values(Shared& s, const Arguments& args, int thread, int warp,
                                           int lane) {
  int n = 0;
  for (ChunkTurns<kCuts> turn(args.lanes.layout, args.count); turn.more(); turn.next(), ++n) {
    Stage& z = s.stage[n % 2];
    s.full[n % 2].wait(this_turn<2>(n));
    s.gates_full.wait(n & 1);
    rewrite(s, z, turn.tail(), args.scale, thread);
    s.ready.wait(n & 1);
    make_scores(s, z, n, warp, lane);
    // Roots of the factors from this warp's block to the end of the chunk.
    float* const tail = reinterpret_cast<float*>(z.v) + (6 + warp) * kDk;
#pragma unroll
    for (int c = 2 * lane; c < kDk; c += 64) {
      *reinterpret_cast<float2*>(tail + c) = root_between(s.roots, warp, 4, c);
    }
    __syncwarp();
    s.state_full.wait(n & 1);
    float d[64];
    const uint64_t y = wgmma::rows(smem_addr(s.dstate));
#pragma unroll
    for (int part = 0; part < 4; ++part) {  // few registers are left for A
      uint32_t a[2][4];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int i = 2 * part + j;
        load_matrices(a[j],
                      block_address(smem_addr(z.k) + i / 4 * kTile, 16 * warp, 16 * (i % 4), lane));
        const float* const by = tail + 16 * i + 2 * (lane & 3);
        carry_operand(a[j], *reinterpret_cast<const float2*>(by),
                      *reinterpret_cast<const float2*>(by + 8));
      }
      wgmma::hold(a);
      wgmma::fence_sums();
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        wgmma::multiply<128, Depth::kRows>(d, a[j], wgmma::step_rows<128>(y, 2 * part + j),
                                           part + j > 0);
      }
      wgmma::commit();
      wgmma::wait<0>();
      wgmma::hold(d);
    }
    __syncwarp();
    if (lane == 0) {
      s.state_free.arrive();
    }
    named_sync(kScores, 256);
    const uint64_t scores = wgmma::columns(smem_addr(z.v + kTile));
    const uint64_t go = wgmma::columns(smem_addr(z.go), kTile);
    wgmma::hold(d);
    wgmma::fence_sums();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      wgmma::multiply<128, Depth::kColumns, Depth::kColumns>(d, wgmma::step_columns(scores, j),
                                                             wgmma::step_columns(go, j), true);
    }
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(d);
    named_sync(kAll, 384);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float* x = d + 8 * j;
      store_matrices(block_address(smem_addr(z.go) + j / 4 * kTile, 16 * warp, 16 * (j % 4), lane),
                     pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]), pack_bf16(x[4], x[5]),
                     pack_bf16(x[6], x[7]));
    }
    announce(s.out, lane);
  }
}

template <bool kCuts>
__device__ __forceinline__ void run_gates(Shared& s, const Arguments& args, int thread, int warp,
                                          int lane) {
  int n = 0;
  const int channel = thread;  // of 128
  for (ChunkTurns<kCuts> turn(args.lanes.layout, args.count); turn.more(); turn.next(), ++n) {
    Stage& z = s.stage[n % 2];
    s.full[n % 2].wait(this_turn<2>(n));
    s.gates_full.wait(n & 1);
    rewrite(s, z, turn.tail(), args.scale, 128 + thread);
    s.ready.wait(n & 1);
    make_scores(s, z, n, 4 + warp, lane);
    named_arrive(kScores, 256);
    s.state_full.wait(n & 1);
    auto* const terms = reinterpret_cast<float*>(z.v);
    {
      // <S, dS>: two channels a thread, half of the values.
      const int two = thread % 64 * 2, half = thread / 64;
      float2 sum = make_float2(0, 0);
#pragma unroll 8
      for (int v = 64 * half; v < 64 * half + 64; ++v) {
        const uint32_t at = two / 64 * (2 * kTile) + tile_offset(v, two % 64);
        const uint32_t x = *reinterpret_cast<const uint32_t*>(s.state + at);
        const uint32_t y = *reinterpret_cast<const uint32_t*>(s.dstate + at);
        sum.x += low_bf16(x) * low_bf16(y);
        sum.y += high_bf16(x) * high_bf16(y);
      }
      *reinterpret_cast<float2*>(terms + (4 + half) * kDk + two) = sum;
    }
    __syncwarp();
    if (lane == 0) {
      s.state_free.arrive();
    }
    named_sync(kKeys, 256);
    named_sync(kGates, 128);
    float all = 1;
#pragma unroll
    for (int b = 0; b < 5; ++b) {
      all *= s.roots.root[b][channel];
    }
    float sum = all * all * (terms[4 * kDk + channel] + terms[5 * kDk + channel]) + terms[channel] +
                terms[kDk + channel] + terms[2 * kDk + channel] + terms[3 * kDk + channel];
    const auto at = [&](int t) {
      return reinterpret_cast<float*>(s.g + channel / 32 * kTile + t * 128 +
                                      ((channel % 32 * 4) ^ ((t & 7) << 4)));
    };
#pragma unroll
    for (int t = 63; t >= 0; t -= 16) {
      float x[16];
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        x[j] = *at(t - j);
      }
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        sum += x[j];
        *at(t - j) = sum;
      }
    }
    announce(s.gates_out, lane);
  }
}

template <bool kCuts>
__global__ void __launch_bounds__(640, 1) channel_gradients_kernel(
    const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
    const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap go,
    const __grid_constant__ CUtensorMap dq, const __grid_constant__ CUtensorMap dk,
    const __grid_constant__ CUtensorMap dv, const __grid_constant__ CUtensorMap g,
    const __grid_constant__ CUtensorMap dg, const Arguments args) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<Shared*>(memory);
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      s.full[i].init(1);
      s.free[i].init(1);
    }
    s.gates_full.init(1);
    s.gates_free.init(1);
    s.state_full.init(1);
    s.state_free.init(16);
    s.ready.init(8);
    s.values_read.init(8);
    s.out.init(12);
    s.gates_out.init(4);
    fence_barrier_init();
  }
  clear_images(s.state, args.lanes, threadIdx.x, 640);
  clear_images(s.dstate, args.lanes, threadIdx.x, 640);
  __syncthreads();
  launch_dependents();
  wait_for_previous_grid();
  if (warpgroup == 4) {
    fewer_registers<24>();
    int n = 0;
    if (warp == 0 && elect_one()) {
      for (ChunkTurns<kCuts> turn(args.lanes.layout, args.count); turn.more(); turn.next(), ++n) {
        const ChunkPlace at = turn.at();
        Stage& to = s.stage[n % 2];
        Mbarrier& full = s.full[n % 2];
        if (n >= 2) {
          wait_idle(s.free[n % 2], last_turn<2>(n));
        }
        full.arrive_expect(sizeof(Stage));
        const int query = args.lanes.query(at.head), key = args.lanes.key(at.head);
        for (int half = 0; half < 2; ++half) {
          const int c = 64 * half, t = at.first, tile = half * kTile;
          const int write = t - args.lanes.shift;
          load_box(to.go + tile, &go, full, c, at.head, t, at.row);
          load_box(to.v + tile, &v, full, c, at.head, write, at.row);
          load_box(to.q + tile, &q, full, c, query, t, at.row);
          load_box(to.k + tile, &k, full, c, key, write, at.row);
        }
      }
    } else if (warp == 1 && elect_one()) {
      for (ChunkTurns<kCuts> turn(args.lanes.layout, args.count); turn.more(); turn.next(), ++n) {
        const ChunkPlace at = turn.at();
        if (n >= 1) {
          wait_idle(s.state_free, (n - 1) & 1);
        }
        const int64_t image = at.record * args.lanes.state_bytes();
        s.state_full.arrive_expect(static_cast<uint32_t>(2 * args.lanes.state_bytes()));
        load_image(s.state, args.states + image, args.lanes, s.state_full);
        load_image(s.dstate, args.dstates + image, args.lanes, s.state_full);
        if (n >= 1) {
          wait_idle(s.gates_free, (n - 1) & 1);
        }
        s.gates_full.arrive_expect(4 * kTile);
        for (int j = 0; j < 4; ++j) {
          load_box(s.g + j * kTile, &g, s.gates_full, 32 * j, args.lanes.gate(at.head),
                   at.first - args.lanes.shift, at.row);
        }
      }
    } else if (warp == 2 && (kCuts || elect_one())) {
      const bool issues = !kCuts || lane == 0;
      const Lanes& lanes = args.lanes;
      for (ChunkTurns<kCuts> turn(lanes.layout, args.count); turn.more(); turn.next(), ++n) {
        const ChunkPlace at = turn.at();
        const Stage& z = s.stage[n % 2];
        wait_idle(s.out, n & 1);
        const auto store = [&](const CUtensorMap& map, bf16* rows, const unsigned char* tiles,
                               int columns, int first) {
          for (int half = 0; half < 2; ++half) {
            store_columns<kCuts>(map, rows, lanes, tiles + half * kTile, columns, 64 * half,
                                 at.head, first, at.row, at.valid, at.cut, lane);
          }
        };
        const int write = at.first - lanes.shift;
        store(dq, args.dq, z.q, lanes.dk, at.first);
        store(dk, args.dk, z.k, lanes.dk, write);
        store(dv, args.dv, z.go, lanes.width, write);
        wait_idle(s.gates_out, n & 1);
        if (kCuts && (at.cut || write < 0)) {
          const int64_t stride = static_cast<int64_t>(lanes.layout.heads) * lanes.dk;
          const int64_t token =
              static_cast<int64_t>(at.row) * (lanes.layout.tokens - lanes.shift) + write;
          copy_gates(args.dg + token * stride + static_cast<int64_t>(at.head) * lanes.dk, stride,
                     s.g, write < 0 ? -write : 0, at.valid, lanes.dk, lane);
        } else if (issues) {
          for (int j = 0; j < 4; ++j) {
            store_box(&dg, s.g + j * kTile, 32 * j, at.head, write, at.row);
          }
        }
        if constexpr (kCuts) {
          __syncwarp();
        }
        if (issues) {
          commit_stores();
          wait_stores_read<0>();
          s.gates_free.arrive();
          s.free[n % 2].arrive();
        }
      }
      if (issues) {
        wait_stores<0>();
      }
    }
  } else if (warpgroup == 0) {
    more_registers<144>();
    run_queries<kCuts>(s, args, warp, lane);
  } else if (warpgroup == 1) {
    more_registers<144>();
    run_keys<kCuts>(s, args, warp, lane);
  } else if (warpgroup == 2) {
    more_registers<104>();
    run_values<kCuts>(s, args, threadIdx.x % 128, warp, lane);
  } else {
    fewer_registers<64>();
    run_gates<kCuts>(s, args, threadIdx.x % 128, warp, lane);
  }
#endif
}

}  // namespace

cudaError_t channel_linear_gradients(const LinearSizes& z, const ChannelInputs& in, const bf16* go,
                                     const void* workspace, const LinearGradients& out,
                                     cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared);
  static_assert(kBytes <= 227 * 1024);
  const auto kernel =
      has_cuts(z) ? &channel_gradients_kernel<true> : &channel_gradients_kernel<false>;
  const cudaError_t allowed = allow_shared(kernel, kBytes);
  int processors = 0;
  if (const cudaError_t e = processor_count(&processors)) return e;
  if (allowed != cudaSuccess) {
    return allowed;
  }
  const Workspace w(z, z.dk, const_cast<void*>(workspace));
  bf16 *const dq = w.dq ? w.dq : out.q, *const dk = w.dk ? w.dk : out.k;
  float* const dg = w.dg ? w.dg : out.g;
  CUtensorMap from[4], to[4], gates[2];
  if (const cudaError_t e =
          encode_operands(from, z, {in.q, in.k, in.v, go}, z.queries(), z.keys())) {
    return e;
  }
  if (const cudaError_t e =
          encode_operands(to, z, {dq, dk, out.v, out.v}, w.dq ? z.lanes() : z.queries(),
                          w.dk ? z.lanes() : z.keys())) {
    return e;
  }
  if (const cudaError_t e = encode_lane_gates(&gates[0], z, in.g, z.heads)) {
    return e;
  }
  if (const cudaError_t e = encode_lane_gates(&gates[1], z, dg, z.lanes())) {
    return e;
  }
  const auto count = static_cast<int64_t>(z.records());
  const Arguments args{w.states, w.dstates, dq, dk, out.v, dg, lanes_in(z, in.offsets, w.places),
                       count,    z.scale};
  const int64_t blocks = count < processors ? count : processors;
  if (const cudaError_t e =
          launch_behind(kernel, blocks, 640, kBytes, stream, from[0], from[1], from[2], from[3],
                        to[0], to[1], to[2], gates[0], gates[1], args)) {
    return e;
  }
  return sum_lanes(z, w, z.dk, out, stream);
}

cudaError_t channel_linear_backward(const LinearSizes& sizes, const ChannelInputs& in,
                                    const bf16* go, const float* gs_end, void* workspace,
                                    const LinearGradients& out, cudaStream_t stream) {
  if (!sizes.valid()) {
    return cudaErrorInvalidValue;
  }
  if (const cudaError_t e = find_chunks(sizes, in.offsets, sizes.dk, workspace, stream)) {
    return e;
  }
  const cudaError_t e = channel_linear_states(sizes, in, go, gs_end, workspace, out.s0, stream);
  return e ? e : channel_linear_gradients(sizes, in, go, workspace, out, stream);
}

}  // namespace ls::kernels::decayed_linear
