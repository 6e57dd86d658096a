#pragma once
// Forward chunk loop of the gated delta rule, Dk 64 or 128 on the chip. One CTA a chain (sequence
// and value head) and 64 value columns.
//   warpgroup 0  the loop. The state stays in registers, transposed (S^T: value rows, f32 sums of
//                wgmma), and its bf16 copy is the A operand from registers. Every product has 64
//                value rows and its B operand in shared memory, so neither S nor W nor X is ever
//                written there to be multiplied:
//                  U^T = S^T K^T       X^T = W'^T - W'^T N^T, W' = V - exp(G) U
//                  O^T = exp(G) S^T Q^T + X^T P^T
//                  S^T = exp(G_C) S^T + (exp(G_C - G) beta X)^T K
//   warps 4, 5   bring tiles, a ring of three; store O, states and X
// Moves q, k, v and the records of gated_delta_scores in and o out.
#include "core/ops/delta_rule/gated_delta_kernels.cuh"

namespace ls::kernels::gated_delta::forward {

/// Two CTAs fit an SM at Dk 64 with a ring of two.
template <int kDk>
inline constexpr int kStages = kDk > 64 ? 3 : 2;
template <int kDk>
inline constexpr int kCtas = kDk > 64 ? 1 : 2;

template <int kDk, bool kOutput>
struct alignas(1024) Stage {
  unsigned char k[kDk / 64 * kTile], q[kOutput ? kDk / 64 * kTile : 1024], v[kTile];
  unsigned char n[kTile], p[kTile];  // with gates one record of `kept`
  ChunkGates gates;
};
/// What goes out has two places, if there is room: with one, a store must be read within a turn.
struct alignas(1024) Results {
  unsigned char o[kTile];
};
template <int kDk>
struct alignas(1024) StateResults {
  unsigned char state[kDk / 64 * kTile], x[kTile];
};
template <int kDk, bool kOutput, bool kStates>
struct alignas(1024) Shared {
  static constexpr int kStateBuffers = kStates ? (kOutput ? 1 : 2) : 0;
  Stage<kDk, kOutput> stage[kStages<kDk>];
  Results o[kOutput ? 2 : 1];
  StateResults<kDk> states[kStates ? kStateBuffers : 1];
  Mbarrier full[kStages<kDk>], free[kStages<kDk>];
  Mbarrier out_full, out_free;  // o, state, x
};

struct Arguments {
  const unsigned char* kept;
  Records records;
  const float* s0;
  float* s_end;
  bf16* o;
  Layout layout;
  int dk, dv, slices;  // slices of 64 value columns, a CTA each
  float scale;
};

/// The chain and value columns of this CTA.
struct Place : Chain {
  int slice;
  __device__ Place(const Layout& layout, int slices, int block)
      : Chain(layout, block / slices), slice(block % slices) {}
};

// Sums of S^T from and to a state [Dk,Dv]: rows (values) 16 warp + lane / 4 (+8), columns (keys)
// 8 j + 2 (lane % 4) (+1).
template <int kDk>
__device__ __forceinline__ void load_state(float (&state)[kDk / 2], const float* from,
                                           int64_t index, int slice, int dk, int dv, int warp,
                                           int lane) {
  const int value = 64 * slice + 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
  from += index * dk * dv + value;
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) {
    const int d = 8 * (i / 4) + pair + i % 2, down = (i & 2) * 4;
    state[i] = d < dk && value + down < dv ? from[static_cast<int64_t>(d) * dv + down] : 0.f;
  }
}
template <int kDk>
__device__ __forceinline__ void store_state(const float (&state)[kDk / 2], float* to, int64_t index,
                                            int slice, int dk, int dv, int warp, int lane) {
  const int value = 64 * slice + 16 * warp + (lane >> 2), pair = 2 * (lane & 3);
  to += index * dk * dv + value;
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) {
    const int d = 8 * (i / 4) + pair + i % 2, down = (i & 2) * 4;
    if (d < dk && value + down < dv) {
      to[static_cast<int64_t>(d) * dv + down] = state[i];
    }
  }
}

template <int kDk, bool kOutput, bool kStates>
__device__ __forceinline__ void bring_tiles(Shared<kDk, kOutput, kStates>& s, const CUtensorMap& q,
                                            const CUtensorMap& k, const CUtensorMap& v,
                                            const Arguments& args, const Place& at) {
  for (int n = 0; n < at.chunks; ++n) {
    Stage<kDk, kOutput>& to = s.stage[n % kStages<kDk>];
    Mbarrier& full = s.full[n % kStages<kDk>];
    if (n >= kStages<kDk>) {
      s.free[n % kStages<kDk>].wait(last_turn<kStages<kDk>>(n));
    }
    constexpr int kTiles = kDk / 64;
    const int token = at.first + 64 * n;
    full.arrive_expect((kOutput ? 2 * kTiles + 3 : kTiles + 2) * kTile + sizeof(ChunkGates));
    for (int i = 0; i < kTiles; ++i) {
      load_box(to.k + i * kTile, &k, full, 64 * i, at.key_head, token, at.row);
    }
    const unsigned char* record = args.kept + (at.record + n) * DeltaSizes::kKept;
    if constexpr (kOutput) {
      for (int i = 0; i < kTiles; ++i) {
        load_box(to.q + i * kTile, &q, full, 64 * i, at.key_head, token, at.row);
      }
      load_box(to.v, &v, full, 64 * at.slice, at.head, token, at.row);
      load_bytes(to.n, record, DeltaSizes::kKept, full);
    } else {
      load_box(to.v, &v, full, 64 * at.slice, at.head, token, at.row);
      load_bytes(to.n, record, kTile, full);
      load_bytes(&to.gates, record + 2 * kTile, sizeof(ChunkGates), full);
    }
  }
}

/// Turn n brings the state before chunk n and its X, and O of the chunk before; one thread.
template <int kDk, bool kOutput, bool kStates>
__device__ __forceinline__ void store_results(Shared<kDk, kOutput, kStates>& s,
                                              const CUtensorMap& o, const Arguments& args,
                                              const Place& at) {
  constexpr int kBefore = kOutput && kStates ? 0 : 1;  // stores that may still be read: two places
  const int turns = kOutput && at.chunks > 0 ? at.chunks + 1 : at.chunks;
  for (int n = 0; n < turns; ++n) {
    s.out_full.wait(n & 1);
    if (kOutput && n > 0 && !at.cut(n - 1)) {
      store_box(&o, s.o[n % 2].o, 64 * at.slice, at.head, at.first + 64 * (n - 1), at.row);
    }
    if (kStates && n < at.chunks) {
      store_bytes(args.records.state(at.record + n, at.slice), s.states[n % 2 * kBefore].state,
                  kDk / 64 * kTile);
      store_bytes(args.records.value(at.record + n, at.slice), s.states[n % 2 * kBefore].x, kTile);
    }
    commit_stores();
    wait_stores_read<kBefore>();
    s.out_free.arrive();
  }
  wait_stores<0>();
}

/// The rows of O that box stores would carry into the next document; after store_results.
template <int kDk, bool kStates>
__device__ __forceinline__ void store_tail(Shared<kDk, true, kStates>& s, const Arguments& args,
                                           const Place& at, int lane) {
  if (at.tail < 64) {
    const int token = at.first + 64 * (at.chunks - 1);
    copy_rows(args.o + (static_cast<int64_t>(token) * args.layout.heads + at.head) * args.dv +
                  64 * at.slice,
              static_cast<int64_t>(args.layout.heads) * args.dv, s.o[at.chunks % 2].o, at.tail,
              args.dv - 64 * at.slice, lane, 32);
  }
}

template <int kDk, bool kOutput, bool kStates>
__device__ __forceinline__ void run_loop(Shared<kDk, kOutput, kStates>& s, const Arguments& args,
                                         const Place& at, int warp, int lane) {
  const int pair = 2 * (lane & 3);
  float state[kDk / 2];  // S^T
  load_state<kDk>(state, args.s0, at.start, at.slice, args.s0 && at.start >= 0 ? args.dk : 0,
                  args.dv, warp, lane);
  uint32_t copy[kDk / 16][4], packed[4][4];
  as_operand<kDk / 16>(copy, state);
  const auto stage_output = [&](int turn) {
    store_transposed(s.o[turn % 2].o, packed, warp, lane);
  };
  const auto announce = [&] {
    fence_proxy_async();
    arrive_warp(s.out_full, lane);
  };

  float u[32], out[32];
  if (at.chunks > 0) {
    s.full[0].wait(0);
  }
  for (int n = 0; n < at.chunks; ++n) {
    Stage<kDk, kOutput>& z = s.stage[n % kStages<kDk>];
    if (at.cut(n)) {
      const int id = 32 * warp + lane;
      clear_rows(z.k, kDk / 64, at.tail, id, 128);
      clear_rows(z.q, kOutput ? kDk / 64 : 0, at.tail, id, 128);
      clear_rows(z.v, 1, at.tail, id, 128);
      fence_proxy_async();
      cuda::named_sync(1, 128);
    }
    StateResults<kDk>& results = s.states[kOutput || !kStates ? 0 : n % 2];
    const uint64_t keys = wgmma::rows(smem_addr(z.k));
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kRows>(u, copy, keys, false);
    wgmma::commit();
    if constexpr (kOutput) {
      const uint64_t queries = wgmma::rows(smem_addr(z.q));
      wgmma::multiply_steps<Depth::kRows>(out, copy, queries, false);
      wgmma::commit();
    }
    wgmma::wait<2>();  // Nothing to wait for, but ptxas would otherwise before `state` is touched.
    wgmma::hold(state);
    // Under U: gates and V; the state goes out and decays.
    float2 begin[8];
    uint32_t w[4][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      begin[j] = *reinterpret_cast<const float2*>(z.gates.begin + 8 * j + pair);
    }
    load_transposed(w, z.v, warp, lane);
    const float decay = z.gates.begin[63];
    const bool free = n == 0 || s.out_free.done((n - 1) & 1);
    if constexpr (kStates) {
      if (!free) {
        s.out_free.wait((n - 1) & 1);
      }
      store_operands(results.state, copy, warp, lane);
    }
#pragma unroll
    for (float& x : state) {
      x *= decay;
    }
    wgmma::wait<kOutput ? 1 : 0>();
    wgmma::hold(u);
    // W' in the place of U.
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t& value = w[j / 2][2 * (j % 2) + i];
        float &x = u[4 * j + 2 * i], &y = u[4 * j + 2 * i + 1];
        x = low_bf16(value) - begin[j].x * x;
        y = high_bf16(value) - begin[j].y * y;
        value = pack_bf16(x, y);
      }
    }
    const uint64_t solve = wgmma::rows(smem_addr(z.n));
    wgmma::hold(u);
    wgmma::hold(w);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kRows, -1>(u, w, solve, true);
    wgmma::commit();
    // Under X: what the queries read decays.
    float2 last[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      last[j] = *reinterpret_cast<const float2*>(z.gates.late + 8 * j + pair);
    }
    if constexpr (kOutput) {
      wgmma::wait<1>();
      wgmma::hold(out);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float g0 = args.scale * begin[j].x, g1 = args.scale * begin[j].y;
        out[4 * j] *= g0;
        out[4 * j + 1] *= g1;
        out[4 * j + 2] *= g0;
        out[4 * j + 3] *= g1;
      }
    }
    wgmma::wait<0>();
    wgmma::hold(u);
    // X for the output and, with beta and its decay to the chunk's end, for the state.
    uint32_t late[4][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float x = u[4 * j + 2 * i], y = u[4 * j + 2 * i + 1];
        if constexpr (kOutput) {
          w[j / 2][2 * (j % 2) + i] = pack_bf16(x, y);
        }
        late[j / 2][2 * (j % 2) + i] = pack_bf16(last[j].x * x, last[j].y * y);
      }
    }
    const uint64_t depth = wgmma::columns(smem_addr(z.k), kTile);
    wgmma::hold(state);
    wgmma::hold(late);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns>(state, late, depth, true);
    wgmma::commit();
    if constexpr (kOutput) {
      const uint64_t reads = wgmma::rows(smem_addr(z.p));
      wgmma::hold(out);
      wgmma::hold(w);
      wgmma::multiply_steps<Depth::kRows>(out, w, reads, true);
      wgmma::commit();
    }
    // Under them: results go out; the next chunk's tiles.
    const int next = n + 1 < at.chunks ? n + 1 : n;
    const bool ready = s.full[next % kStages<kDk>].done(this_turn<kStages<kDk>>(next));
    if constexpr (kStates) {
      uint32_t r[4][4];
      as_operand<4>(r, u);
      store_transposed(results.x, r, warp, lane);
    } else if (!free) {
      s.out_free.wait((n - 1) & 1);
    }
    if (kOutput && n > 0) {
      stage_output(n);
    }
    announce();
    if (!ready) {
      s.full[next % kStages<kDk>].wait(this_turn<kStages<kDk>>(next));
    }
    wgmma::wait<kOutput ? 1 : 0>();
    wgmma::hold(state);
    as_operand<kDk / 16>(copy, state);
    if constexpr (kOutput) {
      wgmma::wait<0>();
      wgmma::hold(out);
      as_operand<4>(packed, out);
    }
    arrive_warp(s.free[n % kStages<kDk>], lane);
  }
  if (kOutput && at.chunks > 0) {
    s.out_free.wait((at.chunks - 1) & 1);
    stage_output(at.chunks);
    announce();
  }
  if (args.s_end && at.end >= 0) {
    store_state<kDk>(state, args.s_end, at.end, at.slice, args.dk, args.dv, warp, lane);
  }
}

/// A CTA of kThreads. kOutput: o is wanted; kStates: records of the states and of X are. `block`
/// counts chains and value columns.
inline constexpr int kThreads = 192;
template <int kDk, bool kOutput, bool kStates>
__device__ __forceinline__ void run(unsigned char* raw, int block, const CUtensorMap& q,
                                    const CUtensorMap& k, const CUtensorMap& v,
                                    const CUtensorMap& o, const Arguments& args) {
  using Memory = Shared<kDk, kOutput, kStates>;
  Memory& s = *reinterpret_cast<Memory*>(raw);
  const Place at(args.layout, args.slices, block);
  const int warp = warp_index(), lane = lane_index();
  if (threadIdx.x == 0) {
    init_ring(s.full, s.free, 4);
    s.out_full.init(4 * kWarpArrivals);
    s.out_free.init(1);
    fence_barrier_init();
  }
  __syncthreads();
  if (warp < 4) {
    run_loop<kDk, kOutput, kStates>(s, args, at, warp, lane);
  } else if (warp == 4) {
    if (lane == 0) {
      bring_tiles<kDk, kOutput, kStates>(s, q, k, v, args, at);
    }
  } else {
    if (lane == 0) {
      store_results<kDk, kOutput, kStates>(s, o, args, at);
    }
    __syncwarp();
    if constexpr (kOutput) {
      store_tail<kDk, kStates>(s, args, at, lane);
    }
  }
}

inline Arguments arguments(const DeltaSizes& z, const DeltaInputs& in, bf16* o, float* s_end,
                           const void* kept, void* states) {
  return {static_cast<const unsigned char*>(kept),
          records_in(z, states),
          in.s0,
          s_end,
          o,
          layout_of(z, in, kept),
          z.dk,
          z.dv,
          z.wide_dv() / 64,
          z.scale};
}

}  // namespace ls::kernels::gated_delta::forward
