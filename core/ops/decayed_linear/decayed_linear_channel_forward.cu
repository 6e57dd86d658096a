// Forward of decayed linear attention with a gate for each key channel: one pass over q, k, v, g. A
// CTA owns a segment of a chain and 64 value columns; chunks of 64 tokens follow each other.
//   warpgroup 0      the state in registers, transposed (S^T: value rows), its bf16 copy is the A
//                    operand: O^T = S^T Q^T + V^T P^T, S^T = S^T 2^(G_C) + V^T K, where Q = q' 2^M
//                    and K = k' 2^(G_C - M) lie in shared memory (decayed_linear_channel.cuh)
//   warpgroup 1      P from q' and k' by blocks of 16 tokens
//   warpgroups 2, 3  rewrite a chunk in place: q to q', k to k', gates to Q and K
//   warpgroup 4      a warp each for loads and for stores
// Each stage goes load, rewrite, scores, state, store; three of them are under way.
#include "core/ops/decayed_linear/decayed_linear_channel.cuh"

namespace ls::kernels::decayed_linear {
namespace {

using namespace ls::cuda;

constexpr int kStages = 3;

struct alignas(1024) Stage {
  unsigned char q[2 * kTile];  // q'; then P in its first tile
  unsigned char k[2 * kTile];  // k'
  unsigned char g[4 * kTile];  // gates; then Q and K
  unsigned char v[kTile];      // V; then O
};
struct Shared {
  Stage stage[kStages];
  BlockRoots roots[kStages];
  alignas(16) float all[kStages][kDk];  // 2^G_C
  Mbarrier full[kStages], ready[kStages], scores_ready[kStages], out[kStages], free[kStages];
};

struct Arguments {
  const float* s0;
  float* s_end;
  bf16* o;
  ChannelSegments segments;
  Lanes lanes;
  float scale;
};

__device__ __forceinline__ SegmentPlace place_of(const Arguments& args) {
  return {args.lanes, args.lanes.slices, args.segments.count, args.segments.length,
          static_cast<int64_t>(blockIdx.x)};
}

template <bool kCuts>
__device__ __forceinline__ void rewrite(Shared& s, const Arguments& args, int thread) {
  const SegmentPlace at = place_of(args);
  const int block = thread / 64, channel = thread % 64 * 2;
  for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
    Stage& z = s.stage[n % kStages];
    s.full[n % kStages].wait(this_turn<kStages>(n));
    if (kCuts && at.chain.cut(c)) {
      clear_tokens(z.g, z.q, z.k, 16 * block, 16, channel, at.chain.tail);
    }
    // Four tokens are loaded ahead of the stores of those before: the compiler cannot tell their
    // places apart.
    uint32_t q[2][4], k[2][4];
    const auto load = [&](int to, int part) {
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        q[to][r] = *value_pair(z.q, 16 * block + 4 * part + r, channel);
        k[to][r] = *value_pair(z.k, 16 * block + 4 * part + r, channel);
      }
    };
    load(0, 0);
    BlockSums x;
    sum_gates<1>(x, z.g, s.roots[n % kStages], s.all[n % kStages], block, channel);
    const float2 middle = x.sum[7];
    const float2 read =
        make_float2(exp2_fast(x.before.x + middle.x), exp2_fast(x.before.y + middle.y));
    const float2 write = make_float2(exp2_fast(x.all.x - x.before.x - middle.x),
                                     exp2_fast(x.all.y - x.before.y - middle.y));
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      if (part < 3) {
        load(1 - part % 2, part + 1);
      }
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int token = 16 * block + 4 * part + r;
        const float2 sum = x.sum[4 * part + r];
        const uint32_t qs = q[part % 2][r], ks = k[part % 2][r];
        const float dx = sum.x - middle.x, dy = sum.y - middle.y;
        const float qx = args.scale * low_bf16(qs) * exp2_fast(dx);
        const float qy = args.scale * high_bf16(qs) * exp2_fast(dy);
        const float kx = low_bf16(ks) * exp2_fast(-dx), ky = high_bf16(ks) * exp2_fast(-dy);
        *value_pair(z.q, token, channel) = pack_bf16(qx, qy);
        *value_pair(z.k, token, channel) = pack_bf16(kx, ky);
        *value_pair(z.g, token, channel) = pack_bf16(qx * read.x, qy * read.y);
        *value_pair(z.g + 2 * kTile, token, channel) = pack_bf16(kx * write.x, ky * write.y);
      }
    }
    fence_proxy_async();
    __syncwarp();
    if (thread % 32 == 0) {
      s.ready[n % kStages].arrive();
    }
  }
}

/// Blocks 4 t + s of P, by a warp.
template <int... kBlocks>
__device__ __forceinline__ void score_warp(Stage& z, const BlockRoots& roots, int lane) {
  uint32_t p[sizeof...(kBlocks)][4];
  int i = 0;
  (score_block<4, kBlocks / 4, kBlocks % 4>(p[i++], z.q, z.k, roots, lane), ...);
  named_sync(2, 128);  // q' is read, P takes its place
  i = 0;
  const auto store = [&](int block, const uint32_t(&x)[4]) {
    store_matrices(block_address(smem_addr(z.q), block / 4 * 16, block % 4 * 16, lane), x[0], x[1],
                   x[2], x[3]);
  };
  (store(kBlocks, p[i++]), ...);
}

__device__ __forceinline__ void make_scores(Shared& s, const Arguments& args, int warp, int lane) {
  const SegmentPlace at = place_of(args);
  for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
    Stage& z = s.stage[n % kStages];
    s.ready[n % kStages].wait(this_turn<kStages>(n));
    const BlockRoots& roots = s.roots[n % kStages];
    // Dealt out evenly: off the diagonal a block costs half as much again, above it nothing.
    switch (warp) {
      case 0:
        score_warp<4, 8, 1, 2>(z, roots, lane);
        break;
      case 1:
        score_warp<9, 12, 3, 6>(z, roots, lane);
        break;
      case 2:
        score_warp<13, 0, 5, 7>(z, roots, lane);
        break;
      default:
        score_warp<14, 10, 15, 11>(z, roots, lane);
    }
    fence_proxy_async();
    __syncwarp();
    if (lane == 0) {
      s.scores_ready[n % kStages].arrive();
    }
  }
}

__device__ __forceinline__ void run_values(Shared& s, const Arguments& args, int warp, int lane) {
  const SegmentPlace at = place_of(args);
  const int value = 64 * at.slice;
  float state[kDk / 2];
  load_state(state, args.lanes.state(args.s0, at.chain.start), args.lanes, value, warp, lane);
  for (int i = 0; i < at.segment; ++i) {
    add_channel_segment(state, args.segments, args.segments.at(at.index, i), at.slice,
                        32 * warp + lane);
  }
  for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
    Stage& z = s.stage[n % kStages];
    uint32_t copy[kDk / 16][4];
    float out[32];
    as_operand<kDk / 16>(copy, state);
    s.full[n % kStages].wait(this_turn<kStages>(n));
    s.ready[n % kStages].wait(this_turn<kStages>(n));
    scale_channels(state, s.all[n % kStages], lane);
    const uint64_t queries = wgmma::rows(smem_addr(z.g));
    const uint64_t keys = wgmma::columns(smem_addr(z.g + 2 * kTile), kTile);
    const uint64_t values = wgmma::columns(smem_addr(z.v));
    wgmma::hold(copy);
    wgmma::hold(state);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kRows>(out, copy, queries, false);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma::multiply<kDk, Depth::kColumns, Depth::kColumns>(state, wgmma::step_columns(values, i),
                                                             wgmma::step_columns(keys, i), true);
    }
    wgmma::commit();
    s.scores_ready[n % kStages].wait(this_turn<kStages>(n));
    const uint64_t scores = wgmma::rows(smem_addr(z.q));
    wgmma::fence_sums();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma::multiply<64, Depth::kColumns, Depth::kRows>(out, wgmma::step_columns(values, i),
                                                         wgmma::step_rows(scores, i), true);
    }
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(out);
    wgmma::hold(state);
    uint32_t packed[4][4];
    as_operand<4>(packed, out);
    named_sync(3, 128);  // V is read, O takes its place
    store_transposed(z.v, packed, warp, lane);
    fence_proxy_async();
    __syncwarp();
    if (lane == 0) {
      s.out[n % kStages].arrive();
    }
  }
  if (at.segment == args.segments.count - 1) {
    store_state(args.lanes.state(args.s_end, at.chain.end), state, args.lanes, value, warp, lane);
  }
}

template <bool kCuts>
__global__ void __launch_bounds__(640, 1)
    channel_forward_kernel(const __grid_constant__ CUtensorMap q,
                           const __grid_constant__ CUtensorMap k,
                           const __grid_constant__ CUtensorMap v,
                           const __grid_constant__ CUtensorMap g,
                           const __grid_constant__ CUtensorMap o, const Arguments args) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<Shared*>(memory);
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      s.full[i].init(1);
      s.ready[i].init(8);
      s.scores_ready[i].init(4);
      s.out[i].init(4);
      s.free[i].init(1);
    }
    fence_barrier_init();
  }
  __syncthreads();
  launch_dependents();
  wait_for_previous_grid();
  if (warpgroup == 4) {
    fewer_registers<24>();
    const SegmentPlace at = place_of(args);
    const int head = at.chain.head, row = at.chain.row;
    if (warp == 0 && elect_one()) {
      const int query = args.lanes.query(head), key = args.lanes.key(head);
      const int gate = args.lanes.gate(head);
      for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
        Stage& to = s.stage[n % kStages];
        Mbarrier& full = s.full[n % kStages];
        if (n >= kStages) {
          wait_idle(s.free[n % kStages], last_turn<kStages>(n));
        }
        full.arrive_expect(sizeof(Stage));
        const int token = at.token(c);
        const int write = token - args.lanes.shift;
        for (int i = 0; i < 4; ++i) {
          load_box(to.g + i * kTile, &g, full, 32 * i, gate, write, row);
        }
        for (int i = 0; i < 2; ++i) {
          load_box(to.q + i * kTile, &q, full, 64 * i, query, token, row);
          load_box(to.k + i * kTile, &k, full, 64 * i, key, write, row);
        }
        load_box(to.v, &v, full, 64 * at.slice, head, write, row);
      }
    } else if (warp == 1 && (kCuts || elect_one())) {
      const bool issues = !kCuts || lane == 0;
      for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
        wait_idle(s.out[n % kStages], this_turn<kStages>(n));
        store_columns<kCuts>(o, args.o, args.lanes, s.stage[n % kStages].v, args.lanes.width,
                             64 * at.slice, head, at.token(c), row, at.end() - at.token(c),
                             at.chain.cut(c), lane);
        if constexpr (kCuts) {
          __syncwarp();
        }
        if (issues) {
          commit_stores();
          wait_stores_read<0>();
          s.free[n % kStages].arrive();
        }
      }
      if (issues) {
        wait_stores<0>();
      }
    }
  } else if (warpgroup == 0) {
    more_registers<168>();
    run_values(s, args, warp, lane);
  } else if (warpgroup == 1) {
    make_scores(s, args, warp, lane);
  } else {
    rewrite<kCuts>(s, args, threadIdx.x - 256);
  }
#endif
}

}  // namespace

int channel_linear_segments(const LinearSizes& sizes, int processors) {
  const int ways = sizes.slices() * sizes.chains();
  if (sizes.documents > 0) {
    return 1;
  }
  int segments = ways >= processors ? 1 : processors / ways;
  segments = min(segments, max(1, sizes.chunks() / 4));
  const int length = (sizes.chunks() + segments - 1) / segments;
  return (sizes.chunks() + length - 1) / length;
}

std::size_t channel_linear_forward_workspace(const LinearSizes& sizes, int segments) {
  return segments < 2
             ? 0
             : static_cast<std::size_t>(sizes.chains()) * static_cast<std::size_t>(segments) *
                   (Segments::kFloat4 * sizeof(float4) + kDk * sizeof(float));
}

cudaError_t channel_linear_forward(const LinearSizes& z, int count, const ChannelInputs& in,
                                   bf16* o, float* s_end, void* workspace, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared);
  static_assert(kBytes <= 227 * 1024);
  const auto kernel = has_cuts(z) ? &channel_forward_kernel<true> : &channel_forward_kernel<false>;
  const cudaError_t allowed = allow_shared(kernel, kBytes);
  if (allowed != cudaSuccess) {
    return allowed;
  }
  if (!z.valid()) {
    return cudaErrorInvalidValue;
  }
  const ChannelSegments segments = channel_segments_in(z, count, workspace);
  if (count > 1) {
    if (const cudaError_t e = channel_linear_sums(z, in, segments, stream)) {
      return e;
    }
  }
  CUtensorMap maps[4], gates;
  if (const cudaError_t e =
          encode_operands(maps, z, {in.q, in.k, in.v, o}, z.queries(), z.keys())) {
    return e;
  }
  if (const cudaError_t e = encode_lane_gates(&gates, z, in.g, z.heads)) {
    return e;
  }
  const Arguments args{in.s0, s_end, o, segments, lanes_in(z, in.offsets, nullptr), z.scale};
  return launch_behind(kernel, int64_t{1} * z.slices() * z.chains() * count, 640, kBytes, stream,
                       maps[0], maps[1], maps[2], gates, maps[3], args);
}

}  // namespace ls::kernels::decayed_linear
