// Forward of decayed linear attention: one pass over q, k, v. A CTA owns a segment of a chain (a
// sequence and lane) and 64 or 128 value columns; chunks of 64 tokens follow each other.
//   warpgroups 0 (and 1)  64 value columns each. The state stays in registers, transposed (S^T:
//                         value rows, f32 sums of wgmma); its bf16 copy is the A operand:
//                           O^T = scale exp(G) S^T Q^T + V^T P^T
//                           S^T = exp(G_C) S^T + (exp(G_C - G) V)^T K
//   next warpgroup        P = scale exp(G_t - G_s) Q K^T, lower triangle, chunks ahead
//   last warpgroup        a warp each for tiles, gates, and the outputs of a value warpgroup
// Moves q, k, v in and o out once (q and k once for each CTA of a chain, from the L2 cache). A
// sequence is cut into segments where chains are few: what a segment adds to its last state is
// summed first (decayed_linear_states.cu), so k and v of all but the last are read twice.
#include "core/ops/decayed_linear/decayed_linear_hopper.cuh"

namespace ls::kernels::decayed_linear {
namespace {

using namespace ls::cuda;

template <int kGroups>
struct alignas(1024) Stage {
  unsigned char q[2 * kTile], k[2 * kTile], v[kGroups * kTile];
};
template <int kGroups>
struct Shared {
  static constexpr int kStages = kGroups == 1 ? 4 : 3;
  Stage<kGroups> stage[kStages];
  alignas(1024) unsigned char scores[2][kTile];
  alignas(1024) unsigned char o[kGroups][kTile];
  ScalarGates gates[kStages];
  Mbarrier full[kStages], free[kStages];
  Mbarrier scores_full[2], scores_free[2];
  Mbarrier out_full[kGroups], out_free[kGroups];
};

struct Arguments {
  GateSource gates;
  const float* s0;
  float* s_end;
  bf16* o;
  Segments segments;
  Lanes lanes;
  int slices;
  float scale;
};

/// Chain, segment and value columns of this CTA.
__device__ __forceinline__ SegmentPlace place_of(const Arguments& args) {
  return {args.lanes, args.slices, args.segments.count, args.segments.length,
          static_cast<int64_t>(blockIdx.x)};
}

template <int kGroups>
__device__ __forceinline__ void bring_tiles(Shared<kGroups>& s, const CUtensorMap& q,
                                            const CUtensorMap& k, const CUtensorMap& v,
                                            const Arguments& args) {
  constexpr int kStages = Shared<kGroups>::kStages;
  const SegmentPlace at = place_of(args);
  const int head = at.chain.head, row = at.chain.row;
  const int query = args.lanes.query(head), key = args.lanes.key(head);
  for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
    auto& to = s.stage[n % kStages];
    Mbarrier& full = s.full[n % kStages];
    if (n >= kStages) {
      s.free[n % kStages].wait(last_turn<kStages>(n));
    }
    full.arrive_expect((4 + kGroups) * kTile);
    const int token = at.token(c);
    for (int i = 0; i < 2; ++i) {
      load_box(to.q + i * kTile, &q, full, 64 * i, query, token, row);
      load_box(to.k + i * kTile, &k, full, 64 * i, key, token, row);
    }
    for (int i = 0; i < kGroups; ++i) {
      load_box(to.v + i * kTile, &v, full, 64 * (kGroups * at.slice + i), head, token, row);
    }
  }
}

template <int kGroups>
__device__ __forceinline__ void bring_gates(Shared<kGroups>& s, const Arguments& args, int lane) {
  constexpr int kStages = Shared<kGroups>::kStages;
  const SegmentPlace at = place_of(args);
  const int gate = args.lanes.gate(at.chain.head);
  const auto read = [&](int c, int i) {
    return args.gates.at(at.chain.row, at.token(c) + 2 * lane + i, gate, at.end());
  };
  float g0 = at.first < at.last ? read(at.first, 0) : 0.f;
  float g1 = at.first < at.last ? read(at.first, 1) : 0.f;
  for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
    const float x0 = g0, x1 = g1;
    if (c + 1 < at.last) {
      g0 = read(c + 1, 0);
      g1 = read(c + 1, 1);
    }
    if (n >= kStages) {
      s.free[n % kStages].wait(last_turn<kStages>(n));
    }
    write_gates(s.gates[n % kStages], x0, x1, args.scale, at.end() - at.token(c), lane);
    __syncwarp();
    if (lane == 0) {
      s.full[n % kStages].arrive();
    }
  }
}

template <int kGroups, bool kCuts>
__device__ __forceinline__ void store_output(Shared<kGroups>& s, const CUtensorMap& o,
                                             const Arguments& args, int group, int lane) {
  const SegmentPlace at = place_of(args);
  const int column = 64 * (kGroups * at.slice + group);
  const bool issues = !kCuts || lane == 0;
  for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
    s.out_full[group].wait(n & 1);
    store_columns<kCuts>(o, args.o, args.lanes, s.o[group], args.lanes.width, column, at.chain.head,
                         at.token(c), at.chain.row, at.end() - at.token(c), at.chain.cut(c), lane);
    if constexpr (kCuts) {
      __syncwarp();
    }
    if (issues) {
      commit_stores();
      wait_stores_read<0>();
      s.out_free[group].arrive();
    }
  }
  if (issues) {
    wait_stores<0>();
  }
}

template <int kGroups>
__device__ __forceinline__ void make_scores(Shared<kGroups>& s, const Arguments& args, int warp,
                                            int lane) {
  constexpr int kStages = Shared<kGroups>::kStages;
  const SegmentPlace at = place_of(args);
  for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
    const auto& from = s.stage[n % kStages];
    s.full[n % kStages].wait(this_turn<kStages>(n));
    float qk[32];
    wgmma::fence_sums();
    multiply_rows(qk, from.q, from.k);
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(qk);
    uint32_t p[4][4];
    gate_scores<false>(p, qk, s.gates[n % kStages], args.scale, warp, lane);
    if (n >= 2) {
      s.scores_free[n % 2].wait(last_turn<2>(n));
    }
    store_operands(s.scores[n % 2], p, warp, lane);
    fence_proxy_async();
    __syncwarp();
    if (lane == 0) {
      s.scores_full[n % 2].arrive();
      s.free[n % kStages].arrive();
    }
  }
}

template <int kGroups>
__device__ __forceinline__ void run_values(Shared<kGroups>& s, const Arguments& args, int group,
                                           int warp, int lane) {
  constexpr int kStages = Shared<kGroups>::kStages;
  const SegmentPlace at = place_of(args);
  const int value = 64 * (kGroups * at.slice + group), pair = 2 * (lane & 3);
  float state[kDk / 2];
  load_state(state, args.lanes.state(args.s0, at.chain.start), args.lanes, value, warp, lane);
  for (int i = 0; i < at.segment; ++i) {
    const int64_t record = args.segments.at(at.index, i);
    const float decay = exp2_fast(args.segments.decays[record]);
    const float4* sums =
        args.segments.sums + (record * 2 + value / 64) * (16 * 128) + 32 * warp + lane;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      const float4 x = sums[j * 128];
      state[4 * j] = decay * state[4 * j] + x.x;
      state[4 * j + 1] = decay * state[4 * j + 1] + x.y;
      state[4 * j + 2] = decay * state[4 * j + 2] + x.z;
      state[4 * j + 3] = decay * state[4 * j + 3] + x.w;
    }
  }
  uint32_t packed[4][4];  // O of the chunk before
  const auto stage_output = [&](int n) {
    if (n > 0) {
      s.out_free[group].wait((n - 1) & 1);
    }
    store_transposed(s.o[group], packed, warp, lane);
    fence_proxy_async();
    __syncwarp();
    if (lane == 0) {
      s.out_full[group].arrive();
    }
  };
  int n = 0;
  for (int c = at.first; c < at.last; ++c, ++n) {
    const auto& from = s.stage[n % kStages];
    const ScalarGates& gates = s.gates[n % kStages];
    uint32_t copy[kDk / 16][4], scaled[4][4];
    float out[32];
    as_operand<kDk / 16>(copy, state);
    s.full[n % kStages].wait(this_turn<kStages>(n));
    const float decay = gates.all;
#pragma unroll
    for (float& e : state) {
      e *= decay;
    }
    const uint64_t queries = wgmma::rows(smem_addr(from.q));
    wgmma::hold(copy);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kRows>(out, copy, queries, false);
    wgmma::commit();
    // Under it: the output of the chunk before, the values.
    if (n > 0) {
      stage_output(n - 1);
    }
    load_transposed(scaled, from.v + group * kTile, warp, lane);
    weigh_tokens(scaled, gates.end, lane);
    const uint64_t keys = wgmma::columns(smem_addr(from.k), kTile);
    wgmma::hold(state);
    wgmma::hold(scaled);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns>(state, scaled, keys, true);
    wgmma::commit();
    wgmma::wait<1>();
    wgmma::hold(out);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 read = *reinterpret_cast<const float2*>(gates.read + 8 * j + pair);
      out[4 * j] *= read.x;
      out[4 * j + 1] *= read.y;
      out[4 * j + 2] *= read.x;
      out[4 * j + 3] *= read.y;
    }
    s.scores_full[n % 2].wait(this_turn<2>(n));
    const uint64_t scores = wgmma::rows(smem_addr(s.scores[n % 2]));
    const uint64_t values = wgmma::columns(smem_addr(from.v + group * kTile));
    wgmma::hold(out);
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
    __syncwarp();
    if (lane == 0) {
      s.free[n % kStages].arrive();
      s.scores_free[n % 2].arrive();
    }
    as_operand<4>(packed, out);
  }
  if (n > 0) {
    stage_output(n - 1);
  }
  if (at.segment == args.segments.count - 1) {
    store_state(args.lanes.state(args.s_end, at.chain.end), state, args.lanes, value, warp, lane);
  }
}

template <int kGroups, bool kCuts>
__global__ void __launch_bounds__(128 * (kGroups + 2), 1)
    forward_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                   const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap o,
                   const Arguments args) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<Shared<kGroups>*>(memory);
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared<kGroups>::kStages; ++i) {
      s.full[i].init(2);
      s.free[i].init(4 * (kGroups + 1));
    }
    for (int i = 0; i < 2; ++i) {
      s.scores_full[i].init(4);
      s.scores_free[i].init(4 * kGroups);
    }
    for (int i = 0; i < kGroups; ++i) {
      s.out_full[i].init(4);
      s.out_free[i].init(1);
    }
    fence_barrier_init();
  }
  __syncthreads();
  launch_dependents();
  wait_for_previous_grid();
  if (warpgroup == kGroups + 1) {
    fewer_registers<40>();
    if (warp == 0) {
      if (elect_one()) {
        bring_tiles<kGroups>(s, q, k, v, args);
      }
    } else if (warp == 1) {
      bring_gates<kGroups>(s, args, lane);
    } else if (warp - 2 < kGroups) {
      if (kCuts || elect_one()) {
        store_output<kGroups, kCuts>(s, o, args, warp - 2, lane);
      }
    }
  } else if (warpgroup == kGroups) {
    if constexpr (kGroups == 2) {
      fewer_registers<104>();
    }
    make_scores<kGroups>(s, args, warp, lane);
  } else {
    more_registers<kGroups == 1 ? 232 : 184>();
    run_values<kGroups>(s, args, warpgroup, warp, lane);
  }
#endif
}

template <int kGroups, bool kCuts>
cudaError_t launch(const LinearSizes& z, const CUtensorMap (&maps)[4], const Arguments& args,
                   cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kGroups>);
  static_assert(kBytes <= 227 * 1024);
  static const cudaError_t allowed = allow_shared(&forward_kernel<kGroups, kCuts>, kBytes);
  if (allowed != cudaSuccess) {
    return allowed;
  }
  const int64_t blocks = int64_t{1} * z.chains() * args.segments.count * args.slices;
  return launch_behind(&forward_kernel<kGroups, kCuts>, blocks, 128 * (kGroups + 2), kBytes, stream,
                       maps[0], maps[1], maps[2], maps[3], args);
}

}  // namespace

LinearPlan decayed_linear_plan(const LinearSizes& sizes, int processors) {
  // Two CTAs of 64 values a chain where that fills the machine about once; else 128 values, which
  // read q and k once, in as many segments as there is room for.
  const int chains = sizes.chains();
  const bool narrow = sizes.slices() == 1;
  if (!narrow && chains * 2 <= processors && chains * 3 > processors) {
    return {1, 1};
  }
  if (sizes.documents > 0) {
    return {narrow ? 1 : 2, 1};
  }
  int segments = chains >= processors ? 1 : processors / chains;
  segments = min(segments, max(1, sizes.chunks() / 4));
  const int length = (sizes.chunks() + segments - 1) / segments;
  return {narrow ? 1 : 2, (sizes.chunks() + length - 1) / length};
}

std::size_t decayed_linear_forward_workspace(const LinearSizes& sizes, const LinearPlan& plan) {
  return plan.segments < 2
             ? 0
             : static_cast<std::size_t>(sizes.chains()) * static_cast<std::size_t>(plan.segments) *
                   (Segments::kFloat4 * sizeof(float4) + sizeof(float));
}

cudaError_t decayed_linear_forward(const LinearSizes& z, const LinearPlan& plan,
                                   const LinearInputs& in, bf16* o, float* s_end, void* workspace,
                                   cudaStream_t stream) {
  if (!z.valid()) {
    return cudaErrorInvalidValue;
  }
  const Segments segments = segments_in(z, plan.segments, workspace);
  if (plan.segments > 1) {
    if (const cudaError_t e = decayed_linear_sums(z, in, segments, stream)) {
      return e;
    }
  }
  CUtensorMap maps[4];
  if (const cudaError_t e =
          encode_operands(maps, z, {in.q, in.k, in.v, o}, z.queries(), z.keys())) {
    return e;
  }
  const Arguments args{{in.g, in.decay, z.tokens, z.heads},
                       in.s0,
                       s_end,
                       o,
                       segments,
                       lanes_in(z, in.offsets, nullptr),
                       (z.slices() + plan.groups - 1) / plan.groups,
                       z.scale};
  const auto launcher = has_cuts(z) ? (plan.groups == 1 ? &launch<1, true> : &launch<2, true>)
                                    : (plan.groups == 1 ? &launch<1, false> : &launch<2, false>);
  return launcher(z, maps, args, stream);
}

}  // namespace ls::kernels::decayed_linear
