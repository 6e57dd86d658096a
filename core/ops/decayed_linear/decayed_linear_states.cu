// The two recurrences over chunks, without outputs: S^T = exp(G_C) S^T + (exp(G_C - G) V)^T K in
// order and dS^T = exp(G_C) dS^T + (scale exp(G) dO)^T Q in reverse. One CTA a chain (or segment),
// 64 value columns and direction, two CTAs a multiprocessor.
//   warpgroup 0  the state, transposed, f32 in registers (sums of wgmma)
//   warpgroup 1  a warp each for tiles, gates, images
// Images: for backward, the state before each chunk and the gradient of the state after it, as
// bf16. Moves k, v, q, dO in once and 512 bytes a token and head out for each direction.
// Sums: for segments, what each adds to its last state, f32.
#include "core/ops/decayed_linear/decayed_linear_normaliser.cuh"

namespace ls::kernels::decayed_linear {
namespace {

using namespace ls::cuda;

constexpr int kStages = 3;

struct alignas(1024) Stage {
  unsigned char x[kTile], y[2 * kTile];  // V or dO: 64 columns; K or Q
};
/// kNormal: with a normaliser; images and operands that were rounded are in two parts, an image's
/// parts one behind the other in memory.
template <bool kImages, bool kNormal>
struct Shared {
  Stage stage[kStages];
  alignas(1024) unsigned char image[kImages ? 2 : 0][2 * kTile];  // of chunks in turn, or parts
  Gates<kNormal> gates[kStages];
  Mbarrier full[kStages], free[kStages];
  Mbarrier image_full[2], image_free[2];
};

struct Arguments {
  GateSource gates;
  const float* first[2];     // state before the first chunk, gradient after the last
  float* s0;                 // or null: gradient of the state before the first
  float* s_end;              // or null: state after the last
  unsigned char* images[2];  // [record]
  Segments segments;
  StatesCut cut;
  Lanes lanes;
  float scale;
};

template <bool kImages>
struct Place {
  SegmentPlace at;
  int reverse, first, count;
  __device__ explicit Place(const Arguments& args)
      : at(args.lanes, args.lanes.slices * args.cut.directions, args.cut.launched,
           args.segments.length, static_cast<int64_t>(blockIdx.x)),
        reverse(at.slice / args.lanes.slices) {
    at.slice %= args.lanes.slices;
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

template <bool kImages, bool kNormal>
__global__ void __launch_bounds__(256, 2)
    states_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                  const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap go,
                  const Arguments args) {
#if LS_HOPPER_CODE
  constexpr int kParts = kNormal ? 2 : 1;
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<Shared<kImages, kNormal>*>(memory);
  const int warpgroup = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      s.full[i].init(2);
      s.free[i].init(4);
    }
    for (int i = 0; i < 2; ++i) {
      s.image_full[i].init(4);
      s.image_free[i].init(1);
    }
    fence_barrier_init();
  }
  __syncthreads();
  launch_dependents();
  wait_for_previous_grid();
  const Place<kImages> place(args);
  const SegmentPlace& at = place.at;
  const int head = at.chain.head, row = at.chain.row;
  if (warpgroup == 1) {
    fewer_registers<40>();
    if (warp == 0) {
      if (elect_one()) {
        const CUtensorMap *const x = place.reverse ? &go : &v, *const y = place.reverse ? &q : &k;
        const int y_head = place.reverse ? args.lanes.query(head) : args.lanes.key(head);
        for (int n = 0; n < place.count; ++n) {
          Stage& to = s.stage[n % kStages];
          Mbarrier& full = s.full[n % kStages];
          const int token = place.token(n);
          if (n >= kStages) {
            s.free[n % kStages].wait(last_turn<kStages>(n));
          }
          full.arrive_expect(sizeof(Stage));
          load_box(to.x, x, full, 64 * at.slice, head, token, row);
          load_box(to.y, y, full, 0, y_head, token, row);
          load_box(to.y + kTile, y, full, 64, y_head, token, row);
        }
      }
    } else if (warp == 1) {
      const auto read = [&](int n) {
        GateInputs<kNormal> x;
        if (n < place.count) {
          x.read(args.gates, row, place.token(n) + 2 * lane, args.lanes.gate(head), at.end());
        }
        return x;
      };
      GateInputs<kNormal> next = read(0);
      for (int n = 0; n < place.count; ++n) {
        const GateInputs<kNormal> now = next;
        next = read(n + 1);
        if (n >= kStages) {
          s.free[n % kStages].wait(last_turn<kStages>(n));
        }
        write_gates<kNormal>(s.gates[n % kStages], now, args.scale, at.end() - place.token(n),
                             lane);
        __syncwarp();
        if (lane == 0) {
          s.full[n % kStages].arrive();
        }
      }
    } else if (warp == 2) {
      if (kImages && elect_one()) {
        unsigned char* const records =
            (place.reverse ? args.images[1] : args.images[0]) + at.slice * kTile;
        const int64_t part_bytes = args.lanes.state_bytes();
        for (int n = 0; n < kParts * place.count; ++n) {
          s.image_full[n % 2].wait(this_turn<2>(n));
          const int64_t record = at.chain.record + place.chunk(n / kParts);
          unsigned char* const to = records + (record * kParts + n % kParts) * part_bytes;
          for (int i = 0; i < args.lanes.key_tiles; ++i) {
            store_bytes(to + i * args.lanes.slices * kTile, s.image[n % 2] + i * kTile, kTile);
          }
          commit_stores();
          wait_stores_read<0>();
          s.image_free[n % 2].arrive();
        }
        wait_stores<0>();
      }
    }
  } else {
    more_registers<200>();
    const float* from = nullptr;
    if constexpr (kImages) {
      from = place.reverse ? args.lanes.state(args.first[1], at.chain.end)
                           : args.lanes.state(args.first[0], at.chain.start);
    }
    float state[kDk / 2];
    load_state(state, from, args.lanes, 64 * at.slice, warp, lane);
    if constexpr (kImages) {
      const int last = args.segments.count - 1;
      const int before = place.reverse ? last - at.segment : at.segment;
      for (int i = 0; i < before; ++i) {
        add_segment(state, args.segments, place.record(args, place.reverse ? last - i : i),
                    at.slice, 32 * warp + lane);
      }
    }
    float total = 0;  // log2 decay so far
    for (int n = 0; n < place.count; ++n) {
      const Stage& from_stage = s.stage[n % kStages];
      const Gates<kNormal>& gates = s.gates[n % kStages];
      if constexpr (kImages) {
        const auto put = [&](int image, const uint32_t(&copy)[kDk / 16][4]) {
          if (image >= 2) {
            s.image_free[image % 2].wait(last_turn<2>(image));
          }
          store_operands(s.image[image % 2], copy, warp, lane);
          fence_proxy_async();
          __syncwarp();
          if (lane == 0) {
            s.image_full[image % 2].arrive();
          }
        };
        uint32_t copy[kDk / 16][4];
        if constexpr (kNormal) {
          uint32_t rest[kDk / 16][4];
          as_operands<kDk / 16>(copy, rest, state);
          put(2 * n, copy);
          put(2 * n + 1, rest);
        } else {
          as_operand<kDk / 16>(copy, state);
          put(n, copy);
        }
      }
      s.full[n % kStages].wait(this_turn<kStages>(n));
      uint32_t x[4][4], x_rest[4][4];
      load_transposed(x, from_stage.x, warp, lane);
      if constexpr (kNormal) {
        weigh_tokens(x, x_rest, place.reverse ? gates.value_read : gates.end, lane);
        wgmma::hold(x_rest);
      } else {
        weigh_tokens(x, place.reverse ? gates.read : gates.end, lane);
      }
      const float decay = gates.all;
      total += gates.log_all;
#pragma unroll
      for (float& e : state) {
        e *= decay;
      }
      const uint64_t y = wgmma::columns(smem_addr(from_stage.y), kTile);
      wgmma::hold(state);
      wgmma::hold(x);
      wgmma::fence_sums();
      wgmma::multiply_steps<Depth::kColumns>(state, x, y, true);
      if constexpr (kNormal) {
        wgmma::multiply_steps<Depth::kColumns>(state, x_rest, y, true);
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
      if (place.reverse && at.segment == 0) {
        store_state(args.lanes.state(args.s0, at.chain.start), state, args.lanes, 64 * at.slice,
                    warp, lane);
      } else if (!place.reverse && args.s_end && at.segment == args.segments.count - 1) {
        store_state(args.lanes.state(args.s_end, at.chain.end), state, args.lanes, 64 * at.slice,
                    warp, lane);
      }
    } else {
      const int64_t record = place.record(args, at.segment);
      float4* to = args.segments.sums + (record * 2 + at.slice) * (16 * 128) + 32 * warp + lane;
#pragma unroll
      for (int j = 0; j < 16; ++j) {
        to[j * 128] =
            make_float4(state[4 * j], state[4 * j + 1], state[4 * j + 2], state[4 * j + 3]);
      }
      if (at.slice == 0 && threadIdx.x == 0) {
        args.segments.decays[record] = total;
      }
    }
  }
#endif
}

template <bool kImages, bool kNormal>
cudaError_t launch_one(const CUtensorMap (&maps)[4], const Arguments& args, int64_t blocks,
                       cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kImages, kNormal>);
  static_assert(kBytes <= 113 * 1024);
  if (const cudaError_t e = allow_shared(&states_kernel<kImages, kNormal>, kBytes)) {
    return e;
  }
  return launch_behind(&states_kernel<kImages, kNormal>, blocks, 256, kBytes, stream, maps[0],
                       maps[1], maps[2], maps[3], args);
}
template <bool kImages>
cudaError_t launch(const LinearSizes& z, const LinearInputs& in, const bf16* go,
                   const Arguments& args, int64_t blocks, cudaStream_t stream) {
  CUtensorMap maps[4];
  if (const cudaError_t e =
          encode_operands(maps, z, {in.q, in.k, in.v, go}, z.queries(), z.keys())) {
    return e;
  }
  return in.normaliser ? launch_one<kImages, true>(maps, args, blocks, stream)
                       : launch_one<kImages, false>(maps, args, blocks, stream);
}

}  // namespace

cudaError_t decayed_linear_sums(const LinearSizes& z, const LinearInputs& in,
                                const Segments& segments, cudaStream_t stream) {
  const Arguments args{gates_of(z, in),
                       {nullptr, nullptr},
                       nullptr,
                       nullptr,
                       {nullptr, nullptr},
                       segments,
                       {1, segments.summed, 0},
                       lanes_in(z, nullptr, nullptr),
                       z.scale};
  return launch<false>(z, in, in.v, args, int64_t{1} * z.slices() * z.chains() * segments.summed,
                       stream);
}

namespace {
int segments_of(const LinearSizes& z) {
  int processors = 1;
  processor_count(&processors);
  return states_segments(z, 2 * z.slices(), 2 * processors);
}
/// Summaries of both directions.
std::size_t summary_bytes(const LinearSizes& z, int segments) {
  constexpr std::size_t kEach = Segments::kFloat4 * sizeof(float4) + sizeof(float);
  return segments > 1 ? 2 * kEach * static_cast<std::size_t>(z.chains() * segments) : 0;
}
}  // namespace

std::size_t decayed_linear_backward_workspace(const LinearSizes& sizes, bool normalised) {
  return Workspace(sizes, 1, nullptr, normalised, summary_bytes(sizes, segments_of(sizes))).bytes;
}

cudaError_t decayed_linear_states(const LinearSizes& z, const LinearInputs& in, const bf16* go,
                                  const float* gs_end, void* workspace, float* ds0,
                                  cudaStream_t stream) {
  const int count = segments_of(z);
  const Workspace w(z, 1, workspace, in.normaliser, summary_bytes(z, count));
  const int64_t units = int64_t{1} * z.chains() * count;
  auto* const sums = static_cast<float4*>(w.segments);
  const Segments segments{
      sums, reinterpret_cast<float*>(sums ? sums + 2 * units * Segments::kFloat4 : nullptr), count,
      (z.chunks() + count - 1) / count, count - 1};
  Arguments args{gates_of(z, in),
                 {in.s0, gs_end},
                 ds0,
                 in.normaliser ? in.normaliser->s_end : nullptr,
                 {w.states, w.dstates},
                 segments,
                 {2, count - 1, units},
                 lanes_in(z, in.offsets, w.places),
                 z.scale};
  if (count > 1) {
    const int64_t blocks = int64_t{2} * z.slices() * z.chains() * (count - 1);
    if (const cudaError_t e = launch<false>(z, in, go, args, blocks, stream)) return e;
  }
  args.cut.launched = count;
  return launch<true>(z, in, go, args, 2 * z.slices() * units, stream);
}

}  // namespace ls::kernels::decayed_linear
