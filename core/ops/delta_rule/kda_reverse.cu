// Reverse chunk loop of Kimi Delta Attention: gradients of the states and of V, without the states
// themselves. One CTA a chain and 64 value columns, built as forward:
//   Y^T = dS'^T (beta exp(G_C - G) K)^T + dO^T P       dV^T = Y^T - Y^T N
//   dS^T = dS'^T diag(exp(G_C)) + dO^T (scale exp(G) Q) - dV^T (exp(G) K)
// dS' after each chunk goes out as an image for the kernel that makes the other gradients. dO^T P
// of the next chunk is made while this one waits for dV: only products with dS' stay in the chain.
// The states before each chunk, when they are wanted too, are made by as many CTAs of the same
// grid.
#include "core/ops/delta_rule/kda_forward.cuh"

namespace ls::kernels::kda {
namespace {

constexpr int kEarly = 3, kLate = 2;  // places in the rings

/// What the start of a turn needs, and the turn before of the scores.
struct alignas(1024) EarlyStage {
  unsigned char writer[2 * kTile], p[kTile], go[kTile];
};
struct alignas(1024) LateStage {
  unsigned char reader[2 * kTile], query[2 * kTile], n[kTile];
};
struct alignas(1024) Results {
  unsigned char state[2 * kTile], dv[kTile];
};
struct Shared {
  EarlyStage early[kEarly];
  LateStage late[kLate];
  Results results[2];  // in turns, so that a store has one to be read
  float all[kEarly][kDk];
  Mbarrier early_full[kEarly], early_free[kEarly], late_full[kLate], late_free[kLate];
  Mbarrier out_full, out_free;  // state, dv
};

struct Arguments {
  const unsigned char* kept;
  Records records;
  const float* gs_end;
  float* gs0;
  bf16* dv;
  RowSteps dv_steps;
  Layout layout;
};

// Turn m is chunk chunks - 1 - m.
__device__ __forceinline__ void bring_tiles(Shared& s, const CUtensorMap& go, const Arguments& args,
                                            const LoopPlace& at) {
  for (int m = 0; m < at.chain.chunks; ++m) {
    const int n = at.chain.chunks - 1 - m;
    const unsigned char* record = args.kept + (at.chain.record + n) * KdaSizes::kKept;
    EarlyStage& early = s.early[m % kEarly];
    Mbarrier& early_full = s.early_full[m % kEarly];
    if (m >= kEarly) {
      s.early_free[m % kEarly].wait(last_turn<kEarly>(m));
    }
    early_full.arrive_expect(sizeof(EarlyStage) + kAllBytes);
    load_bytes(early.p, record + KeptAt::kScores, kTile, early_full);
    load_box(early.go, &go, early_full, 64 * at.slice, at.chain.head, at.token(n), at.chain.row);
    load_bytes(early.writer, record + KeptAt::kWriter, 2 * kTile, early_full);
    load_bytes(s.all[m % kEarly], record + KeptAt::kAll, kAllBytes, early_full);
    LateStage& late = s.late[m % kLate];
    Mbarrier& late_full = s.late_full[m % kLate];
    if (m >= kLate) {
      s.late_free[m % kLate].wait(last_turn<kLate>(m));
    }
    late_full.arrive_expect(sizeof(LateStage));
    load_bytes(late.reader, record, 4 * kTile, late_full);
    load_bytes(late.n, record + KeptAt::kSolve, kTile, late_full);
  }
}

/// Turn m brings dS' and dV of its chunk.
template <bool kCuts>
__device__ __forceinline__ void store_results(Shared& s, const CUtensorMap& dv,
                                              const Arguments& args, const LoopPlace& at,
                                              int lane) {
  const bool issues = !kCuts || lane == 0;
  for (int m = 0; m < at.chain.chunks; ++m) {
    const int n = at.chain.chunks - 1 - m;
    s.out_full.wait(m & 1);
    if (issues) {
      store_bytes(args.records.state(at.chain.record + n, at.slice), s.results[m % 2].state,
                  2 * kTile);
    }
    store_chunk<kCuts>(dv, args.dv, args.dv_steps, s.results[m % 2].dv, 64 * at.slice,
                       at.chain.head, at.token(n), at.chain.row,
                       at.chain.first + at.chain.length - at.token(n), at.chain.cut(n), lane);
    if constexpr (kCuts) {
      __syncwarp();
    }
    if (issues) {
      commit_stores();
      wait_stores_read<1>();
      s.out_free.arrive();
    }
  }
  if (issues) {
    wait_stores<0>();
  }
}

__device__ __forceinline__ void run_loop(Shared& s, const Arguments& args, const LoopPlace& at,
                                         int warp, int lane) {
  // dS'^T, laid out as S^T in forward.
  float state[kDk / 2];
  load_state(state, args.gs_end, at.chain.end, at.slice, warp, lane);
  uint32_t copy[kDk / 16][4];
  as_operand<kDk / 16>(copy, state);
  uint32_t go[4][4];  // dO^T
  const auto multiply_scores = [&](float(&to)[32], const EarlyStage& z) {
    const uint64_t scores = wgmma::columns(smem_addr(z.p));
    wgmma::multiply_steps<Depth::kColumns>(to, go, scores, false);
    wgmma::commit();
  };

  // w holds dO^T P of turn m; at the end `after` holds that of the turn after.
  const auto turn = [&](int m, float(&w)[32], float(&after)[32]) {
    EarlyStage& z = s.early[m % kEarly];
    LateStage& y = s.late[m % kLate];
    Results& results = s.results[m % 2];
    const uint64_t writer = wgmma::rows(smem_addr(z.writer));
    wgmma::hold(w);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kRows>(w, copy, writer, true);
    wgmma::commit();
    wgmma::wait<1>();  // Nothing to wait for, but ptxas would otherwise before `state` is touched.
    wgmma::hold(state);
    const bool free = m == 0 || s.out_free.done((m - 1) & 1);
    // Under it: the query's part of dS.
    scale_channels(state, s.all[m % kEarly], lane);
    s.late_full[m % kLate].wait(this_turn<kLate>(m));
    const uint64_t queries = wgmma::columns(smem_addr(y.query), kTile);
    wgmma::hold(state);
    wgmma::hold(go);
    wgmma::fence_sums();
    // What multiply_steps does; as a call ptxas makes other code of this loop, not timed.
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma::multiply<kDk, Depth::kColumns>(state, go[i], wgmma::step_columns(queries, i), true);
    }
    wgmma::commit();
    // Under both: dS' goes out.
    if (!free) {
      s.out_free.wait((m - 1) & 1);
    }
    store_operands(results.state, copy, warp, lane);
    wgmma::wait<1>();
    wgmma::hold(w);
    arrive_warp(s.early_free[m % kEarly], lane);
    // Y, and dV in its place.
    uint32_t b[4][4];
    as_operand<4>(b, w);
    const uint64_t solve = wgmma::columns(smem_addr(y.n));
    wgmma::hold(w);
    wgmma::hold(b);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns, -1>(w, b, solve, true);
    wgmma::commit();
    // Under it: dO^T P of the next turn (at the end, this one's again), once dO is used.
    const int next = m + 1 < at.chain.chunks ? m + 1 : m;
    s.early_full[next % kEarly].wait(this_turn<kEarly>(next));
    wgmma::wait<1>();
    wgmma::hold(state);
    load_transposed(go, s.early[next % kEarly].go, warp, lane);
    wgmma::hold(go);
    wgmma::fence_sums();
    multiply_scores(after, s.early[next % kEarly]);
    wgmma::wait<1>();
    wgmma::hold(w);
    wgmma::hold(state);
    as_operand<4>(b, w);
    const uint64_t reader = wgmma::columns(smem_addr(y.reader), kTile);
    wgmma::hold(state);
    wgmma::hold(b);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns, -1>(state, b, reader, true);
    wgmma::commit();
    // Under it: dS' and dV go out.
    store_transposed(results.dv, b, warp, lane);
    fence_proxy_async();
    arrive_warp(s.out_full, lane);
    wgmma::wait<0>();
    wgmma::hold(state);
    wgmma::hold(after);
    as_operand<kDk / 16>(copy, state);
    arrive_warp(s.late_free[m % kLate], lane);
  };

  if (at.chain.chunks == 0) {
    return;  // a document without tokens, which no state belongs to
  }
  float w[32], after[32];
  s.early_full[0].wait(0);
  load_transposed(go, s.early[0].go, warp, lane);
  wgmma::hold(go);
  wgmma::fence_sums();
  multiply_scores(w, s.early[0]);
  wgmma::wait<0>();
  wgmma::hold(w);
  for (int m = 0; m < at.chain.chunks; m += 2) {
    turn(m, w, after);
    if (m + 1 == at.chain.chunks) {
      break;
    }
    turn(m + 1, after, w);
  }
  store_state(args.gs0, state, at.chain.start, at.slice, warp, lane);
}

template <bool kCuts>
__device__ __forceinline__ void run(unsigned char* raw, int block, const CUtensorMap& go,
                                    const CUtensorMap& dv, const Arguments& args) {
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const LoopPlace at(block, args.layout);
  const int warp = warp_index(), lane = lane_index();
  if (threadIdx.x == 0) {
    init_ring(s.early_full, s.early_free, 4);
    init_ring(s.late_full, s.late_free, 4);
    s.out_full.init(4 * kWarpArrivals);
    s.out_free.init(1);
    fence_barrier_init();
  }
  __syncthreads();
  if (warp < 4) {
    run_loop(s, args, at, warp, lane);
  } else if (warp == 4) {
    if (lane == 0) {
      bring_tiles(s, go, args, at);
    }
  } else if (kCuts || lane == 0) {
    store_results<kCuts>(s, dv, args, at, lane);
  }
}

/// CTAs from `blocks` on, if there are any, make the states.
template <bool kCuts>
__global__ void __launch_bounds__(kda_loop::kThreads, 1)
    kda_reverse_kernel(const __grid_constant__ CUtensorMap v,
                       const __grid_constant__ CUtensorMap go,
                       const __grid_constant__ CUtensorMap dv,
                       const __grid_constant__ Arguments args,
                       const __grid_constant__ kda_loop::Arguments states, int blocks) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char raw[];
  const int block = static_cast<int>(blockIdx.x);
  if (block < blocks) {
    run<kCuts>(raw, block, go, dv, args);
  } else {
    kda_loop::run<false, kCuts>(raw, block - blocks, v, dv, states);
  }
#endif
}

}  // namespace

cudaError_t kda_reverse(const KdaSizes& z, const KdaInputs& in, const bf16* go, const float* gs_end,
                        const void* kept, void* states, void* gradients, bf16* dv, float* ds0,
                        cudaStream_t stream, const RowSteps& dv_steps) {
  CUtensorMap v, o, out;
  if (const cudaError_t e = encode_rows(&v, in.v, z.batch, z.tokens, z.heads, kDv, in.v_steps)) {
    return e;
  }
  if (const cudaError_t e = encode_rows(&o, go, z.batch, z.tokens, z.heads, kDv)) return e;
  if (const cudaError_t e = encode_rows(&out, dv, z.batch, z.tokens, z.heads, kDv, dv_steps)) {
    return e;
  }
  constexpr int kBytes = sizeof(Shared) > sizeof(kda_loop::Shared<false>)
                             ? sizeof(Shared)
                             : sizeof(kda_loop::Shared<false>);
  static_assert(kBytes <= 227 * 1024);
  const auto kernel = in.offsets ? &kda_reverse_kernel<true> : &kda_reverse_kernel<false>;
  if (const cudaError_t e = allow_shared(kernel, kBytes)) return e;
  const Arguments args{
      static_cast<const unsigned char*>(kept), records_in(z, gradients), gs_end, ds0, dv,
      dv_steps.of(z.tokens, z.heads, kDv),     layout_in(z, in, kept)};
  const int blocks = z.chains() * kSlices;
  kernel<<<states ? 2 * blocks : blocks, kda_loop::kThreads, kBytes, stream>>>(
      v, o, out, args, kda_loop::arguments(z, in, nullptr, nullptr, kept, states), blocks);
  return cudaGetLastError();
}

}  // namespace ls::kernels::kda
