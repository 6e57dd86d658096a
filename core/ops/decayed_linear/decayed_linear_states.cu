// The two recurrences over chunks, without outputs: S^T = exp(G_C) S^T + (exp(G_C - G) V)^T K in
// order and dS^T = exp(G_C) dS^T + (scale exp(G) dO)^T Q in reverse. One CTA a chain (or segment),
// 64 value columns and direction, two CTAs a multiprocessor.
//   warpgroup 0  the state, transposed, f32 in registers (sums of wgmma)
//   warpgroup 1  a warp each for tiles, gates, images
// Images: for backward, the state before each chunk and the gradient of the state after it, as
// bf16. Moves k, v, q, dO in once and 512 bytes a token and head out for each direction.
// Sums: for forward in segments, what each segment adds to its last state, f32.
#include "core/ops/decayed_linear/decayed_linear_hopper.cuh"

namespace ls::kernels::decayed_linear {
namespace {

using namespace ls::cuda;

constexpr int kStages = 3;

struct alignas(1024) Stage {
  unsigned char x[kTile], y[2 * kTile];  // V or dO: 64 columns; K or Q
};
template <bool kImages>
struct Shared {
  Stage stage[kStages];
  alignas(1024) unsigned char image[kImages ? 2 : 0][2 * kTile];
  ScalarGates gates[kStages];
  Mbarrier full[kStages], free[kStages];
  Mbarrier image_full[2], image_free[2];
};

struct Arguments {
  GateSource gates;
  const float* first[2];     // state before the first chunk, gradient after the last
  float* s0;                 // or null: gradient of the state before the first
  unsigned char* images[2];  // [record]
  Segments segments;
  Lanes lanes;
  float scale;
};

template <bool kImages>
struct Place {
  SegmentPlace at;
  int reverse, first, count;
  __device__ explicit Place(const Arguments& args)
      : at(args.lanes, args.lanes.slices * (kImages ? 2 : 1), kImages ? 1 : args.segments.count - 1,
           kImages ? args.lanes.layout.chunks : args.segments.length,
           static_cast<int64_t>(blockIdx.x)),
        reverse(at.slice / args.lanes.slices),
        first(at.first),
        count(at.last - at.first) {
    at.slice %= args.lanes.slices;
  }
  __device__ int chunk(int n) const { return reverse ? first + count - 1 - n : first + n; }
  __device__ int token(int n) const { return at.token(chunk(n)); }
};

template <bool kImages>
__global__ void __launch_bounds__(256, 2)
    states_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                  const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap go,
                  const Arguments args) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char memory[];
  auto& s = *reinterpret_cast<Shared<kImages>*>(memory);
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
      const auto read = [&](int n, int i) {
        return args.gates.at(row, place.token(n) + 2 * lane + i, args.lanes.gate(head), at.end());
      };
      float g0 = place.count > 0 ? read(0, 0) : 0.f, g1 = place.count > 0 ? read(0, 1) : 0.f;
      for (int n = 0; n < place.count; ++n) {
        const float x0 = g0, x1 = g1;
        if (n + 1 < place.count) {
          g0 = read(n + 1, 0);
          g1 = read(n + 1, 1);
        }
        if (n >= kStages) {
          s.free[n % kStages].wait(last_turn<kStages>(n));
        }
        write_gates(s.gates[n % kStages], x0, x1, args.scale, at.end() - place.token(n), lane);
        __syncwarp();
        if (lane == 0) {
          s.full[n % kStages].arrive();
        }
      }
    } else if (warp == 2) {
      if (kImages && elect_one()) {
        unsigned char* const records =
            (place.reverse ? args.images[1] : args.images[0]) + at.slice * kTile;
        for (int n = 0; n < place.count; ++n) {
          s.image_full[n % 2].wait(this_turn<2>(n));
          unsigned char* const to =
              records + (at.chain.record + place.chunk(n)) * args.lanes.state_bytes();
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
    float total = 0;  // log2 decay so far
    for (int n = 0; n < place.count; ++n) {
      const Stage& from_stage = s.stage[n % kStages];
      const ScalarGates& gates = s.gates[n % kStages];
      if constexpr (kImages) {
        if (n >= 2) {
          s.image_free[n % 2].wait(last_turn<2>(n));
        }
        uint32_t copy[kDk / 16][4];
        as_operand<kDk / 16>(copy, state);
        store_operands(s.image[n % 2], copy, warp, lane);
        fence_proxy_async();
        __syncwarp();
        if (lane == 0) {
          s.image_full[n % 2].arrive();
        }
      }
      s.full[n % kStages].wait(this_turn<kStages>(n));
      uint32_t x[4][4];
      load_transposed(x, from_stage.x, warp, lane);
      weigh_tokens(x, place.reverse ? gates.read : gates.end, lane);
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
      wgmma::commit();
      wgmma::wait<0>();
      wgmma::hold(state);
      __syncwarp();
      if (lane == 0) {
        s.free[n % kStages].arrive();
      }
    }
    if constexpr (kImages) {
      if (place.reverse) {
        store_state(args.lanes.state(args.s0, at.chain.start), state, args.lanes, 64 * at.slice,
                    warp, lane);
      }
    } else {
      const int64_t record = args.segments.at(at.index, at.segment);
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

template <bool kImages>
cudaError_t launch(const LinearSizes& z, const LinearInputs& in, const bf16* go,
                   const Arguments& args, int64_t blocks, cudaStream_t stream) {
  constexpr int kBytes = sizeof(Shared<kImages>);
  static_assert(kBytes <= 113 * 1024);
  static const cudaError_t allowed = allow_shared(&states_kernel<kImages>, kBytes);
  if (allowed != cudaSuccess) {
    return allowed;
  }
  CUtensorMap maps[4];
  if (const cudaError_t e =
          encode_operands(maps, z, {in.q, in.k, in.v, go}, z.queries(), z.keys())) {
    return e;
  }
  return launch_behind(&states_kernel<kImages>, blocks, 256, kBytes, stream, maps[0], maps[1],
                       maps[2], maps[3], args);
}

}  // namespace

cudaError_t decayed_linear_sums(const LinearSizes& z, const LinearInputs& in,
                                const Segments& segments, cudaStream_t stream) {
  const Arguments args{{in.g, in.decay, z.tokens, z.heads},
                       {nullptr, nullptr},
                       nullptr,
                       {nullptr, nullptr},
                       segments,
                       lanes_in(z, nullptr, nullptr),
                       z.scale};
  return launch<false>(z, in, in.v, args,
                       int64_t{1} * z.slices() * z.chains() * (segments.count - 1), stream);
}

std::size_t decayed_linear_backward_workspace(const LinearSizes& sizes) {
  return Workspace(sizes, 1, nullptr).bytes;
}

cudaError_t decayed_linear_states(const LinearSizes& z, const LinearInputs& in, const bf16* go,
                                  const float* gs_end, void* workspace, float* ds0,
                                  cudaStream_t stream) {
  const Workspace w(z, 1, workspace);
  const Arguments args{
      {in.g, in.decay, z.tokens, z.heads}, {in.s0, gs_end}, ds0, {w.states, w.dstates}, {},
      lanes_in(z, in.offsets, w.places),   z.scale};
  return launch<true>(z, in, go, args, int64_t{2} * z.slices() * z.chains(), stream);
}

}  // namespace ls::kernels::decayed_linear
