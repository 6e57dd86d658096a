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
#include "core/ops/decayed_linear/decayed_linear_normaliser.cuh"

namespace ls::kernels::decayed_linear {
namespace {

using namespace ls::cuda;

template <int kGroups>
struct alignas(1024) Stage {
  unsigned char q[2 * kTile], k[2 * kTile], v[kGroups * kTile];
};
/// kNormal: with a normaliser; operands that were rounded are in two parts.
template <int kGroups, bool kNormal>
struct Shared {
  static constexpr int kStages = kGroups == 1 ? 4 : 3, kParts = kNormal ? 2 : 1;
  Stage<kGroups> stage[kStages];
  alignas(1024) unsigned char scores[2][kParts * kTile];
  alignas(1024) unsigned char o[kGroups][kParts * kTile];
  Gates<kNormal> gates[kStages];
  float over[2][kNormal ? 64 : 1];  // 1 / h
  Mbarrier full[kStages], free[kStages];
  Mbarrier scores_full[2], scores_free[2];
  Mbarrier out_full[kGroups], out_free[kGroups];
};

struct Arguments {
  GateSource gates;
  const float* s0;
  float* s_end;
  bf16* o;
  Normaliser normal;
  Segments segments;
  Lanes lanes;
  int slices;
  int segments_of, pieces;  // of a chain, of a segment
  float scale;
};

/// Chain, segment and value columns of this CTA.
__device__ __forceinline__ SegmentPlace place_of(const Arguments& args) {
  return {args.lanes, args.slices, args.segments_of, args.segments.length * args.pieces,
          static_cast<int64_t>(blockIdx.x)};
}

template <int kGroups, bool kNormal>
__device__ __forceinline__ void bring_tiles(Shared<kGroups, kNormal>& s, const CUtensorMap& q,
                                            const CUtensorMap& k, const CUtensorMap& v,
                                            const Arguments& args) {
  constexpr int kStages = Shared<kGroups, kNormal>::kStages;
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

template <int kGroups, bool kNormal>
__device__ __forceinline__ void bring_gates(Shared<kGroups, kNormal>& s, const Arguments& args,
                                            int lane) {
  constexpr int kStages = Shared<kGroups, kNormal>::kStages;
  const SegmentPlace at = place_of(args);
  const int gate = args.lanes.gate(at.chain.head);
  const auto read = [&](int c) {
    GateInputs<kNormal> x;
    if (c < at.last) {
      x.read(args.gates, at.chain.row, at.token(c) + 2 * lane, gate, at.end());
    }
    return x;
  };
  GateInputs<kNormal> next = read(at.first);
  for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
    const GateInputs<kNormal> now = next;
    next = read(c + 1);
    if (n >= kStages) {
      s.free[n % kStages].wait(last_turn<kStages>(n));
    }
    write_gates<kNormal>(s.gates[n % kStages], now, args.scale, at.end() - at.token(c), lane);
    __syncwarp();
    if (lane == 0) {
      s.full[n % kStages].arrive();
    }
  }
}

template <int kGroups, bool kCuts, bool kNormal>
__device__ __forceinline__ void store_output(Shared<kGroups, kNormal>& s, const CUtensorMap& o,
                                             const CUtensorMap& rest, const Arguments& args,
                                             int group, int lane) {
  const SegmentPlace at = place_of(args);
  const int column = 64 * (kGroups * at.slice + group);
  const bool issues = !kCuts || lane == 0;
  for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
    s.out_full[group].wait(n & 1);
    store_columns<kCuts>(o, args.o, args.lanes, s.o[group], args.lanes.width, column, at.chain.head,
                         at.token(c), at.chain.row, at.end() - at.token(c), at.chain.cut(c), lane);
    if (kNormal && args.normal.o_rest) {
      store_columns<kCuts>(rest, args.normal.o_rest, args.lanes, s.o[group] + kTile,
                           args.lanes.width, column, at.chain.head, at.token(c), at.chain.row,
                           at.end() - at.token(c), at.chain.cut(c), lane);
    }
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

template <int kGroups, bool kNormal>
__device__ __forceinline__ void make_scores(Shared<kGroups, kNormal>& s, const Arguments& args,
                                            int warp, int lane) {
  constexpr int kStages = Shared<kGroups, kNormal>::kStages;
  const SegmentPlace at = place_of(args);
  for (int c = at.first, n = 0; c < at.last; ++c, ++n) {
    const auto& from = s.stage[n % kStages];
    const int row = 16 * warp + (lane >> 2) + 8 * (lane & 1);
    const bool there = at.token(c) + row < at.end();
    const int64_t token =
        (int64_t{1} * at.chain.row * args.gates.tokens + at.token(c) + row) * args.gates.heads +
        at.chain.head;
    SumReader sums;
    if constexpr (kNormal) {
      sums.load(args.normal.sums + (at.chain.record + c) * kDk, args.normal.m + token, there, lane);
    }
    s.full[n % kStages].wait(this_turn<kStages>(n));
    float qk[32];
    wgmma::fence_sums();
    multiply_rows(qk, from.q, from.k);
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(qk);
    uint32_t p[4][4], rest[4][4];
    float weighed[32];
    if constexpr (kNormal) {
      weigh_scores<false, false, false>(weighed, qk, s.gates[n % kStages], args.scale, warp, lane);
      as_operands<4>(p, rest, weighed);
    } else {
      gate_scores<false>(p, qk, s.gates[n % kStages], args.scale, warp, lane);
    }
    if (n >= 2) {
      s.scores_free[n % 2].wait(last_turn<2>(n));
    }
    store_operands(s.scores[n % 2], p, warp, lane);
    if constexpr (kNormal) {
      store_operands(s.scores[n % 2] + kTile, rest, warp, lane);
      divide_rows(s.over[n % 2], weighed, sums, from.q, s.gates[n % kStages], args.normal, token,
                  there, at.slice == 0, warp, lane);
    }
    fence_proxy_async();
    __syncwarp();
    if (lane == 0) {
      s.scores_full[n % 2].arrive();
      s.free[n % kStages].arrive();
    }
  }
}

template <int kGroups, bool kNormal>
__device__ __forceinline__ void run_values(Shared<kGroups, kNormal>& s, const Arguments& args,
                                           int group, int warp, int lane) {
  constexpr int kStages = Shared<kGroups, kNormal>::kStages;
  const SegmentPlace at = place_of(args);
  const int value = 64 * (kGroups * at.slice + group), pair = 2 * (lane & 3);
  float state[kDk / 2];
  load_state(state, args.lanes.state(args.s0, at.chain.start), args.lanes, value, warp, lane);
  for (int i = 0; i < at.segment * args.pieces; ++i) {
    add_segment(state, args.segments, args.segments.at(at.index, i), value / 64, 32 * warp + lane);
  }
  uint32_t packed[4][4], packed_rest[4][4];  // O of the chunk before
  const auto stage_output = [&](int n) {
    if (n > 0) {
      s.out_free[group].wait((n - 1) & 1);
    }
    store_transposed(s.o[group], packed, warp, lane);
    if constexpr (kNormal) {
      store_transposed(s.o[group] + kTile, packed_rest, warp, lane);
    }
    fence_proxy_async();
    __syncwarp();
    if (lane == 0) {
      s.out_full[group].arrive();
    }
  };
  int n = 0;
  for (int c = at.first; c < at.last; ++c, ++n) {
    const auto& from = s.stage[n % kStages];
    const Gates<kNormal>& gates = s.gates[n % kStages];
    uint32_t copy[kDk / 16][4], scaled[4][4];
    uint32_t copy_rest[kNormal ? kDk / 16 : 1][4], scaled_rest[4][4];
    float out[32];
    if constexpr (kNormal) {
      as_operands<kDk / 16>(copy, copy_rest, state);
    } else {
      as_operand<kDk / 16>(copy, state);
    }
    s.full[n % kStages].wait(this_turn<kStages>(n));
    const float decay = gates.all;
#pragma unroll
    for (float& e : state) {
      e *= decay;
    }
    const uint64_t queries = wgmma::rows(smem_addr(from.q));
    wgmma::hold(copy);
    if constexpr (kNormal) {
      wgmma::hold(copy_rest);
    }
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kRows>(out, copy, queries, false);
    if constexpr (kNormal) {
      wgmma::multiply_steps<Depth::kRows>(out, copy_rest, queries, true);
    }
    wgmma::commit();
    // Under it: the output of the chunk before, the values.
    if (n > 0) {
      stage_output(n - 1);
    }
    load_transposed(scaled, from.v + group * kTile, warp, lane);
    if constexpr (kNormal) {
      weigh_tokens(scaled, scaled_rest, gates.end, lane);
      wgmma::hold(scaled_rest);
    } else {
      weigh_tokens(scaled, gates.end, lane);
    }
    const uint64_t keys = wgmma::columns(smem_addr(from.k), kTile);
    wgmma::hold(state);
    wgmma::hold(scaled);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns>(state, scaled, keys, true);
    if constexpr (kNormal) {
      wgmma::multiply_steps<Depth::kColumns>(state, scaled_rest, keys, true);
    }
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
    for (int i = 0; i < (kNormal ? 8 : 4); ++i) {
      wgmma::multiply<64, Depth::kColumns, Depth::kRows>(out, wgmma::step_columns(values, i % 4),
                                                         wgmma::step_rows(scores, i), true);
    }
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(out);
    wgmma::hold(state);
    if constexpr (kNormal) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float2 over = *reinterpret_cast<const float2*>(s.over[n % 2] + 8 * j + pair);
        out[4 * j] *= over.x;
        out[4 * j + 1] *= over.y;
        out[4 * j + 2] *= over.x;
        out[4 * j + 3] *= over.y;
      }
    }
    __syncwarp();
    if (lane == 0) {
      s.free[n % kStages].arrive();
      s.scores_free[n % 2].arrive();
    }
    if constexpr (kNormal) {
      as_operands<4>(packed, packed_rest, out);
    } else {
      as_operand<4>(packed, out);
    }
  }
  if (n > 0) {
    stage_output(n - 1);
  }
  if (at.segment == args.segments_of - 1) {
    store_state(args.lanes.state(args.s_end, at.chain.end), state, args.lanes, value, warp, lane);
  }
}

template <int kGroups, bool kCuts, bool kNormal>
__global__ void __launch_bounds__(128 * (kGroups + 2), 1)
    forward_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                   const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap o,
                   const __grid_constant__ CUtensorMap rest, const Arguments args) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<Shared<kGroups, kNormal>*>(memory);
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared<kGroups, kNormal>::kStages; ++i) {
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
        bring_tiles(s, q, k, v, args);
      }
    } else if (warp == 1) {
      bring_gates(s, args, lane);
    } else if (warp - 2 < kGroups) {
      if (kCuts || elect_one()) {
        store_output<kGroups, kCuts>(s, o, rest, args, warp - 2, lane);
      }
    }
  } else if (warpgroup == kGroups) {
    if constexpr (kGroups == 2) {
      fewer_registers<104>();
    }
    make_scores(s, args, warp, lane);
  } else {
    more_registers<kGroups == 1 ? 232 : 184>();
    run_values(s, args, warpgroup, warp, lane);
  }
#endif
}

template <int kGroups, bool kCuts, bool kNormal = false>
cudaError_t launch(const LinearSizes& z, const CUtensorMap (&maps)[4], const CUtensorMap& rest,
                   const Arguments& args, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kGroups, kNormal>);
  static_assert(kBytes <= 227 * 1024);
  if (const cudaError_t e = allow_shared(&forward_kernel<kGroups, kCuts, kNormal>, kBytes)) {
    return e;
  }
  const int64_t blocks = int64_t{1} * z.chains() * args.segments_of * args.slices;
  return launch_behind(&forward_kernel<kGroups, kCuts, kNormal>, blocks, 128 * (kGroups + 2),
                       kBytes, stream, maps[0], maps[1], maps[2], maps[3], rest, args);
}

}  // namespace

LinearPlan decayed_linear_plan(const LinearSizes& sizes, int processors, bool normalised) {
  // Two CTAs of 64 values a chain where that fills the machine about once; else 128 values, which
  // read q and k once, in as many segments as there is room for. With a normaliser the registers
  // hold 64 values.
  const int chains = sizes.chains();
  const bool narrow = sizes.slices() == 1 || normalised;
  if (sizes.slices() > 1 && chains * 2 <= processors && chains * 3 > processors) {
    return {1, 1};
  }
  if (sizes.documents > 0) {
    return {narrow ? 1 : 2, 1};
  }
  const int units = normalised ? chains * sizes.slices() : chains;
  int segments = units >= processors ? 1 : processors / units;
  segments = min(segments, max(1, sizes.chunks() / 4));
  int length = (sizes.chunks() + segments - 1) / segments;
  segments = (sizes.chunks() + length - 1) / length;
  if (segments == 1) {
    return {narrow ? 1 : 2, 1};
  }
  // Two CTAs a multiprocessor sum.
  const int sums = sizes.slices() * chains * (segments - 1);
  const int pieces = max(1, min(2 * processors / sums, length / 4));
  length = (length + pieces - 1) / pieces * pieces;
  return {narrow ? 1 : 2, (sizes.chunks() + length - 1) / length, pieces};
}

namespace {
/// Summaries of segments; with a normaliser decays of chunks and where they lie.
struct ForwardWorkspace {
  void *segments = nullptr, *places = nullptr;
  float* decays = nullptr;
  std::size_t bytes = 0;
  ForwardWorkspace(const LinearSizes& z, const LinearPlan& plan, bool normalised, void* memory) {
    const auto take = [&](std::size_t n) {
      auto* const p = static_cast<unsigned char*>(memory) + bytes;
      bytes += (n + 127) / 128 * 128;
      return n > 0 ? p : nullptr;
    };
    const std::size_t each = Segments::kFloat4 * sizeof(float4) + sizeof(float);
    segments = take(plan.segments < 2 ? 0
                                      : each * static_cast<std::size_t>(z.chains()) *
                                            static_cast<std::size_t>(plan.segments * plan.pieces));
    if (normalised) {
      decays = reinterpret_cast<float*>(take(z.records() * sizeof(float)));
      places = take(z.documents > 0 ? static_cast<std::size_t>(z.chunks()) * sizeof(int2) : 0);
    }
  }
};
}  // namespace

std::size_t decayed_linear_forward_workspace(const LinearSizes& sizes, const LinearPlan& plan,
                                             bool normalised) {
  return ForwardWorkspace(sizes, plan, normalised, nullptr).bytes;
}

cudaError_t decayed_linear_forward(const LinearSizes& z, const LinearPlan& plan,
                                   const LinearInputs& in, bf16* o, float* s_end, void* workspace,
                                   cudaStream_t stream) {
  const bool normalised = in.normaliser != nullptr;
  if (!z.valid() || (normalised && (z.parts() > 1 || plan.groups != 1))) {
    return cudaErrorInvalidValue;
  }
  const ForwardWorkspace w(z, plan, normalised, workspace);
  if (normalised) {
    if (const cudaError_t e = normaliser_sums(z, in, false, w.places, w.decays, stream)) {
      return e;
    }
  }
  const Segments segments = segments_in(z, plan, w.segments);
  if (plan.segments > 1) {
    if (const cudaError_t e = decayed_linear_sums(z, in, segments, stream)) {
      return e;
    }
  }
  CUtensorMap maps[4], rest;
  if (const cudaError_t e =
          encode_operands(maps, z, {in.q, in.k, in.v, o}, z.queries(), z.keys())) {
    return e;
  }
  bf16* const o_rest = normalised && in.normaliser->o_rest ? in.normaliser->o_rest : o;
  if (const cudaError_t e = encode_rows(&rest, o_rest, z.batch, z.tokens, z.lanes(), z.width())) {
    return e;
  }
  const Arguments args{gates_of(z, in),
                       in.s0,
                       s_end,
                       o,
                       normalised ? *in.normaliser : Normaliser(),
                       segments,
                       lanes_in(z, in.offsets, nullptr),
                       (z.slices() + plan.groups - 1) / plan.groups,
                       plan.segments,
                       plan.pieces,
                       z.scale};
  const bool cuts = has_cuts(z), one = plan.groups == 1;
  const auto launcher = normalised ? (cuts ? &launch<1, true, true> : &launch<1, false, true>)
                        : cuts     ? (one ? &launch<1, true> : &launch<2, true>)
                                   : (one ? &launch<1, false> : &launch<2, false>);
  return launcher(z, maps, rest, args, stream);
}

}  // namespace ls::kernels::decayed_linear
