#pragma once
// Forward chunk loop of Kimi Delta Attention, built as that of the gated delta rule: one CTA a
// chain and 64 value columns.
//   warpgroup 0  the loop. The state stays in registers, transposed (S^T: value rows, f32 sums of
//                wgmma), and its bf16 copy is the A operand from registers; every other operand is
//                a tile of the chunk's record, in which the gates are already:
//                  X^T = W^T - W^T N^T, W^T = V^T - S^T (exp(G) K)^T
//                  O^T = S^T (scale exp(G) Q)^T + X^T P^T
//                  S^T = S^T diag(exp(G_C)) + X^T (beta exp(G_C - G) K)
//   warps 4, 5   bring tiles, a ring of three; store O, or states and X
#include "core/ops/delta_rule/kda_kernels.cuh"

namespace ls::kernels::kda::kda_loop {

inline constexpr int kStages = 3;
inline constexpr int kThreads = 192;

template <bool kOutput>
struct alignas(1024) Stage {  // the record's tiles
  unsigned char reader[2 * kTile], query[2 * kTile], writer[2 * kTile], n[kTile], p[kTile];
  unsigned char v[kTile];
};
template <>
struct alignas(1024) Stage<false> {
  unsigned char reader[2 * kTile], writer[2 * kTile], n[kTile], v[kTile];
};
template <bool kOutput>
struct alignas(1024) Results {
  unsigned char o[kTile];
};
template <>
struct alignas(1024) Results<false> {
  unsigned char state[2 * kTile], x[kTile];
};
template <bool kOutput>
struct Shared {
  static constexpr int kPlaces = kOutput ? 1 : 2;  // of results: with one, a turn to be read in
  Stage<kOutput> stage[kStages];
  Results<kOutput> results[kPlaces];
  float all[kStages][kDk];
  Mbarrier full[kStages], free[kStages];
  Mbarrier out_full, out_free;
};

struct Arguments {
  const unsigned char* kept;
  Records records;
  const float* s0;
  float* s_end;
  bf16* o;
  Layout layout;
};

template <bool kOutput>
__device__ __forceinline__ void bring_tiles(Shared<kOutput>& s, const CUtensorMap& v,
                                            const Arguments& args, const LoopPlace& at) {
  for (int n = 0; n < at.chain.chunks; ++n) {
    Stage<kOutput>& to = s.stage[n % kStages];
    Mbarrier& full = s.full[n % kStages];
    if (n >= kStages) {
      s.free[n % kStages].wait(last_turn<kStages>(n));
    }
    full.arrive_expect(sizeof(Stage<kOutput>) + kAllBytes);
    const unsigned char* record = args.kept + (at.chain.record + n) * KdaSizes::kKept;
    load_bytes(to.reader, record, 2 * kTile, full);
    load_box(to.v, &v, full, 64 * at.slice, at.chain.head, at.token(n), at.chain.row);
    if constexpr (kOutput) {
      load_bytes(to.query, record + KeptAt::kQuery, 6 * kTile, full);
    } else {
      load_bytes(to.writer, record + KeptAt::kWriter, 3 * kTile, full);
    }
    load_bytes(s.all[n % kStages], record + KeptAt::kAll, kAllBytes, full);
  }
}

/// Turn n brings O of the chunk before, or the state before chunk n and its X.
template <bool kOutput, bool kCuts>
__device__ __forceinline__ void store_results(Shared<kOutput>& s, const CUtensorMap& o,
                                              const Arguments& args, const LoopPlace& at,
                                              int lane) {
  const int chunks = at.chain.chunks, turns = kOutput && chunks > 0 ? chunks + 1 : chunks;
  for (int n = 0; n < turns; ++n) {
    s.out_full.wait(n & 1);
    if constexpr (kOutput) {
      if (n > 0) {
        const int first = at.token(n - 1);
        store_chunk<kCuts>(o, args.o, dense_rows(args.layout), s.results[0].o, 64 * at.slice,
                           at.chain.head, first, at.chain.row,
                           at.chain.first + at.chain.length - first, at.chain.cut(n - 1), lane);
      }
      if constexpr (kCuts) {
        __syncwarp();
      }
    } else if (!kCuts || lane == 0) {
      store_bytes(args.records.state(at.chain.record + n, at.slice), s.results[n % 2].state,
                  2 * kTile);
      store_bytes(args.records.value(at.chain.record + n, at.slice), s.results[n % 2].x, kTile);
    }
    if (!kCuts || lane == 0) {
      commit_stores();
      wait_stores_read<Shared<kOutput>::kPlaces - 1>();
      s.out_free.arrive();
    }
  }
  if (!kCuts || lane == 0) {
    wait_stores<0>();
  }
}

template <bool kOutput>
__device__ __forceinline__ void run_loop(Shared<kOutput>& s, const Arguments& args,
                                         const LoopPlace& at, int warp, int lane) {
  // S^T: rows (values) 16 warp + lane / 4 (+8), columns (keys) 8 j + pair (+1).
  float state[kDk / 2];
  load_state(state, args.s0, at.chain.start, at.slice, warp, lane);
  uint32_t copy[kDk / 16][4], packed[4][4];
  as_operand<kDk / 16>(copy, state);
  const auto announce = [&] {
    fence_proxy_async();
    arrive_warp(s.out_full, lane);
  };

  float u[32], out[32];
  if (at.chain.chunks > 0) {
    s.full[0].wait(0);
  }
  for (int n = 0; n < at.chain.chunks; ++n) {
    Stage<kOutput>& z = s.stage[n % kStages];
    Results<kOutput>& results = s.results[kOutput ? 0 : n % 2];
    const uint64_t reader = wgmma::rows(smem_addr(z.reader));
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kRows>(u, copy, reader, false);
    wgmma::commit();
    if constexpr (kOutput) {
      const uint64_t queries = wgmma::rows(smem_addr(z.query));
      wgmma::multiply_steps<Depth::kRows>(out, copy, queries, false);
      wgmma::commit();
    }
    wgmma::wait<2>();  // Nothing to wait for, but ptxas would otherwise before `state` is touched.
    wgmma::hold(state);
    // Under U: V; the state goes out and decays.
    uint32_t w[4][4];
    load_transposed(w, z.v, warp, lane);
    const bool free = n == 0 || s.out_free.done((n - 1) & 1);
    if constexpr (!kOutput) {
      if (!free) {
        s.out_free.wait((n - 1) & 1);
      }
      store_operands(results.state, copy, warp, lane);
    }
    scale_channels(state, s.all[n % kStages], lane);
    wgmma::wait<kOutput ? 1 : 0>();
    wgmma::hold(u);
    // W in the place of U.
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t& value = w[j / 2][2 * (j % 2) + i];
        float &x = u[4 * j + 2 * i], &y = u[4 * j + 2 * i + 1];
        x = low_bf16(value) - x;
        y = high_bf16(value) - y;
        value = pack_bf16(x, y);
      }
    }
    const uint64_t solve = wgmma::rows(smem_addr(z.n));
    wgmma::hold(u);
    wgmma::hold(w);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kRows, -1>(u, w, solve, true);
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(u);
    if constexpr (kOutput) {
      wgmma::hold(out);
    }
    as_operand<4>(w, u);
    const uint64_t writer = wgmma::columns(smem_addr(z.writer), kTile);
    wgmma::hold(state);
    wgmma::hold(w);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns>(state, w, writer, true);
    wgmma::commit();
    if constexpr (kOutput) {
      const uint64_t reads = wgmma::rows(smem_addr(z.p));
      wgmma::multiply_steps<Depth::kRows>(out, w, reads, true);
      wgmma::commit();
    }
    // Under them: results go out; the next chunk's tiles.
    const int next = n + 1 < at.chain.chunks ? n + 1 : n;
    const bool ready = s.full[next % kStages].done(this_turn<kStages>(next));
    if constexpr (kOutput) {
      if (!free) {
        s.out_free.wait((n - 1) & 1);
      }
      if (n > 0) {
        store_transposed(results.o, packed, warp, lane);
      }
    } else {
      store_transposed(results.x, w, warp, lane);
    }
    announce();
    if (!ready) {
      s.full[next % kStages].wait(this_turn<kStages>(next));
    }
    wgmma::wait<kOutput ? 1 : 0>();
    wgmma::hold(state);
    as_operand<kDk / 16>(copy, state);
    if constexpr (kOutput) {
      wgmma::wait<0>();
      wgmma::hold(out);
      as_operand<4>(packed, out);
    }
    arrive_warp(s.free[n % kStages], lane);
  }
  if (kOutput && at.chain.chunks > 0) {
    if constexpr (kOutput) {
      s.out_free.wait((at.chain.chunks - 1) & 1);
      store_transposed(s.results[0].o, packed, warp, lane);
    }
    announce();
  }
  store_state(args.s_end, state, at.chain.end, at.slice, warp, lane);
}

/// A CTA of kThreads. kOutput: o is wanted; else records of the states and of X are. `block` counts
/// chains and value columns.
template <bool kOutput, bool kCuts>
__device__ __forceinline__ void run(unsigned char* raw, int block, const CUtensorMap& v,
                                    const CUtensorMap& o, const Arguments& args) {
  Shared<kOutput>& s = *reinterpret_cast<Shared<kOutput>*>(raw);
  const LoopPlace at(block, args.layout);
  const int warp = warp_index(), lane = lane_index();
  if (threadIdx.x == 0) {
    init_ring(s.full, s.free, 4);
    s.out_full.init(4 * kWarpArrivals);
    s.out_free.init(1);
    fence_barrier_init();
  }
  __syncthreads();
  if (warp < 4) {
    run_loop(s, args, at, warp, lane);
  } else if (warp == 4) {
    if (lane == 0) {
      bring_tiles(s, v, args, at);
    }
  } else if (kCuts || lane == 0) {
    store_results<kOutput, kCuts>(s, o, args, at, lane);
  }
}

inline Arguments arguments(const KdaSizes& z, const KdaInputs& in, bf16* o, float* s_end,
                           const void* kept, void* states) {
  return {static_cast<const unsigned char*>(kept),
          records_in(z, states),
          in.s0,
          s_end,
          o,
          layout_in(z, in, kept)};
}

}  // namespace ls::kernels::kda::kda_loop
