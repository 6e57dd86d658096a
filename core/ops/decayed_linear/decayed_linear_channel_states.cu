// The two recurrences over chunks with a gate for each key channel, without outputs:
// S^T = S^T 2^(G_C) + V^T (k 2^(G_C - G)) in order, dS^T = dS^T 2^(G_C) + dO^T (scale q 2^G) in
// reverse. One CTA a chain (or segment) and direction.
//   warpgroups 0, 1  64 value rows of the state each, f32 in registers (sums of wgmma)
//   warpgroups 2, 3  weigh a chunk's keys or queries in place
//   warpgroup 4      a warp each for loads and for images
// Images: for backward, the state before each chunk and the gradient of the state after it, bf16.
// Sums: for segments, what each adds to its last state, f32.
#include "core/ops/decayed_linear/decayed_linear_channel.cuh"

namespace ls::kernels::decayed_linear {
namespace {

using namespace ls::cuda;

constexpr int kStages = 2;

struct alignas(1024) Stage {
  unsigned char x[2 * kTile], y[2 * kTile], g[4 * kTile];  // V or dO; K or Q; gates
};
template <bool kImages>
struct Shared {
  Stage stage[kStages];
  alignas(1024) unsigned char image[2][kImages ? 2 : 1][2 * kTile];  // turn, values
  BlockRoots roots[kStages];
  alignas(16) float all[kStages][kDk];  // 2^G_C
  Mbarrier full[kStages], ready[kStages], free[kStages];
  Mbarrier image_full[2], image_free[2];
};

struct Arguments {
  const float *s0, *gs_end;  // state before the first chunk, gradient after the last
  float* ds0;                // or null
  unsigned char *states, *dstates;
  ChannelSegments segments;
  StatesCut cut;
  Lanes lanes;
  float scale;
};

template <bool kImages>
struct Place {
  SegmentPlace at;
  int reverse, first, count;
  __device__ explicit Place(const Arguments& args)
      : at(args.lanes, args.cut.directions, args.cut.launched, args.segments.length,
           static_cast<int64_t>(blockIdx.x)),
        reverse(at.slice) {
    if (!kImages && reverse) {  // the first segment's summary is nobody's
      at.advance(args.segments.length);
    }
    first = at.first;
    count = at.last - at.first;
  }
  __device__ int64_t record(const Arguments& args, int segment) const {
    return args.segments.at(at.index, segment) + (reverse ? args.cut.reverse : int64_t{0});
  }
  __device__ int chunk(int n) const { return reverse ? first + count - 1 - n : first + n; }
  __device__ int token(int n) const { return at.token(chunk(n)); }
};

template <bool kImages>
__device__ __forceinline__ void weigh(Shared<kImages>& s, const Arguments& args, int thread) {
  const Place<kImages> place(args);
  const int block = thread / 64, channel = thread % 64 * 2;
  float2 total = make_float2(0, 0);
  for (int n = 0; n < place.count; ++n) {
    Stage& z = s.stage[n % kStages];
    s.full[n % kStages].wait(this_turn<kStages>(n));
    BlockSums x;
    if (place.at.chain.cut(place.chunk(n))) {
      clear_tokens(z.g, z.y, z.y, 16 * block, 16, channel, place.at.chain.tail);
    }
    sum_gates<1>(x, z.g, s.roots[n % kStages], s.all[n % kStages], block, channel);
    total.x += x.all.x;
    total.y += x.all.y;
    const float scale = place.reverse ? args.scale : 1.f;
    const float2 from =
        place.reverse ? x.before : make_float2(x.all.x - x.before.x, x.all.y - x.before.y);
    const float sign = place.reverse ? 1.f : -1.f;
#pragma unroll
    for (int first = 0; first < 16; first += 8) {
      uint32_t y[8];
#pragma unroll
      for (int r = 0; r < 8; ++r) {
        y[r] = *value_pair(z.y, 16 * block + first + r, channel);
      }
#pragma unroll
      for (int r = 0; r < 8; ++r) {
        const float2 sum = x.sum[first + r];
        *value_pair(z.y, 16 * block + first + r, channel) =
            pack_bf16(scale * low_bf16(y[r]) * exp2_fast(from.x + sign * sum.x),
                      scale * high_bf16(y[r]) * exp2_fast(from.y + sign * sum.y));
      }
    }
    fence_proxy_async();
    __syncwarp();
    if (thread % 32 == 0) {
      s.ready[n % kStages].arrive();
    }
  }
  if constexpr (!kImages) {
    if (block == 0) {
      float* const to = args.segments.decays + place.record(args, place.at.segment) * kDk;
      *reinterpret_cast<float2*>(to + channel) = total;
    }
  }
}

template <bool kImages>
__device__ __forceinline__ void run_values(Shared<kImages>& s, const Arguments& args, int slice,
                                           int warp, int lane) {
  const Place<kImages> place(args);
  const float* from = nullptr;
  if constexpr (kImages) {
    from = place.reverse ? args.lanes.state(args.gs_end, place.at.chain.end)
                         : args.lanes.state(args.s0, place.at.chain.start);
  }
  float state[kDk / 2];
  load_state(state, from, args.lanes, 64 * slice, warp, lane);
  if constexpr (kImages) {
    const int last = args.segments.count - 1;
    const int before = place.reverse ? last - place.at.segment : place.at.segment;
    for (int i = 0; i < before; ++i) {
      add_channel_segment(state, args.segments, place.record(args, place.reverse ? last - i : i),
                          slice, 32 * warp + lane);
    }
  }
  for (int n = 0; n < place.count; ++n) {
    Stage& z = s.stage[n % kStages];
    if constexpr (kImages) {
      if (n >= 2) {
        s.image_free[n % 2].wait(last_turn<2>(n));
      }
      unsigned char* const image = s.image[n % 2][slice];
#pragma unroll
      for (int i = 0; i < kDk / 16; ++i) {
        const float* d = state + 8 * i;
        store_matrices(
            block_address(smem_addr(image) + i / 4 * kTile, 16 * warp, 16 * (i % 4), lane),
            pack_bf16(d[0], d[1]), pack_bf16(d[2], d[3]), pack_bf16(d[4], d[5]),
            pack_bf16(d[6], d[7]));
      }
      fence_proxy_async();
      __syncwarp();
      if (lane == 0) {
        s.image_full[n % 2].arrive();
      }
    }
    s.full[n % kStages].wait(this_turn<kStages>(n));
    s.ready[n % kStages].wait(this_turn<kStages>(n));
    scale_channels(state, s.all[n % kStages], lane);
    const uint64_t x = wgmma::columns(smem_addr(z.x + slice * kTile));
    const uint64_t y = wgmma::columns(smem_addr(z.y), kTile);
    wgmma::hold(state);
    wgmma::fence_sums();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma::multiply<kDk, Depth::kColumns, Depth::kColumns>(state, wgmma::step_columns(x, i),
                                                             wgmma::step_columns(y, i), true);
    }
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(state);
    __syncwarp();
    if (lane == 0) {
      s.free[n % kStages].arrive();
    }
  }
  if constexpr (kImages) {
    if (place.reverse && place.at.segment == 0) {
      store_state(args.lanes.state(args.ds0, place.at.chain.start), state, args.lanes, 64 * slice,
                  warp, lane);
    }
  } else {
    const int64_t record = place.record(args, place.at.segment);
    float4* to = args.segments.sums + (record * 2 + slice) * (16 * 128) + 32 * warp + lane;
#pragma unroll
    for (int j = 0; j < 16; ++j) {
      to[j * 128] = make_float4(state[4 * j], state[4 * j + 1], state[4 * j + 2], state[4 * j + 3]);
    }
  }
}

template <bool kImages>
__global__ void __launch_bounds__(640, 1)
    channel_states_kernel(const __grid_constant__ CUtensorMap q,
                          const __grid_constant__ CUtensorMap k,
                          const __grid_constant__ CUtensorMap v,
                          const __grid_constant__ CUtensorMap go,
                          const __grid_constant__ CUtensorMap g, const Arguments args) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<Shared<kImages>*>(memory);
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      s.full[i].init(1);
      s.ready[i].init(8);
      s.free[i].init(8);
    }
    for (int i = 0; i < 2; ++i) {
      s.image_full[i].init(8);
      s.image_free[i].init(1);
    }
    fence_barrier_init();
  }
  __syncthreads();
  launch_dependents();
  wait_for_previous_grid();
  if (warpgroup == 4) {
    fewer_registers<32>();
    const Place<kImages> place(args);
    const int head = place.at.chain.head, row = place.at.chain.row;
    if (warp == 0 && elect_one()) {
      const CUtensorMap *const x = place.reverse ? &go : &v, *const y = place.reverse ? &q : &k;
      const int gate = args.lanes.gate(head);
      const int y_head = place.reverse ? args.lanes.query(head) : args.lanes.key(head);
      for (int n = 0; n < place.count; ++n) {
        Stage& to = s.stage[n % kStages];
        Mbarrier& full = s.full[n % kStages];
        const int write = place.token(n) - args.lanes.shift;
        const int token = place.reverse ? place.token(n) : write;
        if (n >= kStages) {
          wait_idle(s.free[n % kStages], last_turn<kStages>(n));
        }
        full.arrive_expect(sizeof(Stage));
        for (int i = 0; i < 4; ++i) {
          load_box(to.g + i * kTile, &g, full, 32 * i, gate, write, row);
        }
        for (int i = 0; i < 2; ++i) {
          load_box(to.y + i * kTile, y, full, 64 * i, y_head, token, row);
          load_box(to.x + i * kTile, x, full, 64 * i, head, token, row);
        }
      }
    } else if (kImages && warp == 1 && elect_one()) {
      unsigned char* const records = place.reverse ? args.dstates : args.states;
      const int slices = args.lanes.slices;
      for (int n = 0; n < place.count; ++n) {
        wait_idle(s.image_full[n % 2], this_turn<2>(n));
        unsigned char* const to =
            records + (place.at.chain.record + place.chunk(n)) * args.lanes.state_bytes();
        for (int i = 0; i < args.lanes.key_tiles * slices; ++i) {  // keys i / slices, values
          store_bytes(to + i * kTile, s.image[n % 2][kImages ? i % slices : 0] + i / slices * kTile,
                      kTile);
        }
        commit_stores();
        wait_stores_read<0>();
        s.image_free[n % 2].arrive();
      }
      wait_stores<0>();
    }
  } else if (warpgroup < 2) {
    more_registers<120>();
    run_values<kImages>(s, args, warpgroup, warp, lane);
  } else {
    weigh<kImages>(s, args, threadIdx.x - 256);
  }
#endif
}

template <bool kImages>
cudaError_t launch(const LinearSizes& z, const ChannelInputs& in, const bf16* go,
                   const Arguments& args, int64_t blocks, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kImages>);
  static_assert(kBytes <= 227 * 1024);
  if (const cudaError_t e = allow_shared(&channel_states_kernel<kImages>, kBytes)) {
    return e;
  }
  CUtensorMap maps[4], gates;
  if (const cudaError_t e =
          encode_operands(maps, z, {in.q, in.k, in.v, go}, z.queries(), z.keys())) {
    return e;
  }
  if (const cudaError_t e = encode_lane_gates(&gates, z, in.g, z.heads)) {
    return e;
  }
  return launch_behind(&channel_states_kernel<kImages>, blocks, 640, kBytes, stream, maps[0],
                       maps[1], maps[2], maps[3], gates, args);
}

}  // namespace

cudaError_t channel_linear_sums(const LinearSizes& z, const ChannelInputs& in,
                                const ChannelSegments& segments, cudaStream_t stream) {
  const Arguments args{nullptr,
                       nullptr,
                       nullptr,
                       nullptr,
                       nullptr,
                       segments,
                       {1, segments.count - 1, 0},
                       lanes_in(z, nullptr, nullptr),
                       z.scale};
  return launch<false>(z, in, in.v, args, int64_t{1} * z.chains() * (segments.count - 1), stream);
}

namespace {
int segments_of(const LinearSizes& z) {
  int processors = 1;
  processor_count(&processors);
  return states_segments(z, 2, processors);
}
/// Summaries of both directions.
std::size_t summary_bytes(const LinearSizes& z, int segments) {
  constexpr std::size_t kEach = Segments::kFloat4 * sizeof(float4) + kDk * sizeof(float);
  return segments > 1 ? 2 * kEach * static_cast<std::size_t>(z.chains() * segments) : 0;
}
}  // namespace

std::size_t channel_linear_backward_workspace(const LinearSizes& z) {
  return Workspace(z, z.dk, nullptr, false, summary_bytes(z, segments_of(z))).bytes;
}

cudaError_t channel_linear_states(const LinearSizes& z, const ChannelInputs& in, const bf16* go,
                                  const float* gs_end, void* workspace, float* ds0,
                                  cudaStream_t stream) {
  const int count = segments_of(z);
  const Workspace w(z, z.dk, workspace, false, summary_bytes(z, count));
  const int64_t units = int64_t{1} * z.chains() * count;
  auto* const sums = static_cast<float4*>(w.segments);
  const ChannelSegments segments{
      sums, reinterpret_cast<float*>(sums ? sums + 2 * units * Segments::kFloat4 : nullptr), count,
      (z.chunks() + count - 1) / count};
  Arguments args{in.s0,
                 gs_end,
                 ds0,
                 w.states,
                 w.dstates,
                 segments,
                 {2, count - 1, units},
                 lanes_in(z, in.offsets, w.places),
                 z.scale};
  if (count > 1) {
    const int64_t blocks = int64_t{2} * z.chains() * (count - 1);
    if (const cudaError_t e = launch<false>(z, in, go, args, blocks, stream)) return e;
  }
  args.cut.launched = count;
  return launch<true>(z, in, go, args, 2 * units, stream);
}

}  // namespace ls::kernels::decayed_linear
