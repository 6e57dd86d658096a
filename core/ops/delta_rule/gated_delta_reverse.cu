// Reverse chunk loop of the gated delta rule: gradients of the states and of V, without the states
// themselves. One CTA a chain and 64 value columns, built as forward, Dk 64 or 128 on the chip:
//   Y^T = (beta exp(G_C - G) (dS'^T K^T)) + dO^T P        dV^T = Y^T - Y^T N
//   dS^T = exp(G_C) dS'^T + scale (exp(G) dO)^T Q - (exp(G) dV)^T K
// dS' after each chunk goes out as an image for the kernel that makes the other gradients. dO^T P
// of the next chunk is made while this one waits for dV: only products with dS' stay in the chain.
// The states before each chunk, when they are wanted too, are made by as many CTAs of the same
// grid: the two loops know nothing of each other, and few chains leave processors idle.
#include <algorithm>

#include "core/ops/delta_rule/gated_delta_reverse.cuh"

namespace ls::kernels::gated_delta {
namespace {

using forward::Place;
constexpr int kStages = 3;

template <int kDk>
struct alignas(1024) Stage {
  unsigned char k[kDk / 64 * kTile], q[kDk / 64 * kTile], go[kTile];
  unsigned char n[kTile], p[kTile];  // with gates one record of `kept`
  ChunkGates gates;
};
template <int kDk>
struct alignas(1024) Results {
  unsigned char state[kDk / 64 * kTile], dv[kTile];
};
template <int kDk>
struct alignas(1024) Shared {
  Stage<kDk> stage[kStages];
  Results<kDk> results[2];  // in turns, so that a store has one to be read
  Mbarrier full[kStages], free[kStages];
  Mbarrier out_full, out_free;  // state, dv
};

// Turn m is chunk chunks - 1 - m.
template <int kDk>
__device__ __forceinline__ void bring_tiles(Shared<kDk>& s, const CUtensorMap& q,
                                            const CUtensorMap& k, const CUtensorMap& go,
                                            const ReverseArguments& args, const Place& at) {
  for (int m = 0; m < at.chunks; ++m) {
    const int n = at.chunks - 1 - m;
    Stage<kDk>& to = s.stage[m % kStages];
    Mbarrier& full = s.full[m % kStages];
    if (m >= kStages) {
      s.free[m % kStages].wait(last_turn<kStages>(m));
    }
    constexpr int kTiles = kDk / 64;
    const int token = at.first + 64 * n;
    full.arrive_expect((2 * kTiles + 1) * kTile + DeltaSizes::kKept);
    load_box(to.go, &go, full, 64 * at.slice, at.head, token, at.row);
    load_bytes(to.n, args.kept + (at.record + n) * DeltaSizes::kKept, DeltaSizes::kKept, full);
    for (int i = 0; i < kTiles; ++i) {
      load_box(to.k + i * kTile, &k, full, 64 * i, at.key_head, token, at.row);
    }
    for (int i = 0; i < kTiles; ++i) {
      load_box(to.q + i * kTile, &q, full, 64 * i, at.key_head, token, at.row);
    }
  }
}

/// Turn m brings dS' and dV of its chunk; one thread.
template <int kDk>
__device__ __forceinline__ void store_results(Shared<kDk>& s, const CUtensorMap& dv,
                                              const ReverseArguments& args, const Place& at) {
  for (int m = 0; m < at.chunks; ++m) {
    const int n = at.chunks - 1 - m;
    s.out_full.wait(m & 1);
    store_bytes(args.records.state(at.record + n, at.slice), s.results[m % 2].state,
                kDk / 64 * kTile);
    if (!at.cut(n)) {
      store_box(&dv, s.results[m % 2].dv, 64 * at.slice, at.head, at.first + 64 * n, at.row);
    }
    commit_stores();
    wait_stores_read<1>();
    s.out_free.arrive();
  }
  wait_stores<0>();
}

/// The rows of dV that a box would carry into the next document, before store_results.
template <int kDk>
__device__ __forceinline__ void store_tail(Shared<kDk>& s, const ReverseArguments& args,
                                           const Place& at, int lane) {
  if (at.tail < 64) {
    const int token = at.first + 64 * (at.chunks - 1);
    s.out_full.wait(0);
    copy_rows(
        args.dv_rows + token * args.dv_steps.token + at.head * args.dv_steps.head + 64 * at.slice,
        args.dv_steps.token, s.results[0].dv, at.tail, args.dv - 64 * at.slice, lane, 32);
  }
}

template <int kDk>
__device__ __forceinline__ void run_loop(Shared<kDk>& s, const ReverseArguments& args,
                                         const Place& at, int warp, int lane) {
  const int pair = 2 * (lane & 3);
  float state[kDk / 2];  // dS'^T, laid out as S^T in forward
  forward::load_state<kDk>(state, args.gs_end, at.end, at.slice,
                           args.gs_end && at.end >= 0 ? args.dk : 0, args.dv, warp, lane);
  uint32_t copy[kDk / 16][4];
  as_operand<kDk / 16>(copy, state);
  uint32_t go[4][4];       // dO^T
  uint32_t late_go[4][4];  // scale exp(G) dO^T
  const auto scale_go = [&](const Stage<kDk>& z) {
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 g = *reinterpret_cast<const float2*>(z.gates.begin + 8 * j + pair);
      const float g0 = args.scale * g.x, g1 = args.scale * g.y;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t from = go[j / 2][2 * (j % 2) + i];
        late_go[j / 2][2 * (j % 2) + i] = pack_bf16(g0 * low_bf16(from), g1 * high_bf16(from));
      }
    }
  };
  const auto multiply_scores = [&](float(&to)[32], const Stage<kDk>& z) {
    const uint64_t scores = wgmma::columns(smem_addr(z.p));
    wgmma::multiply_steps<Depth::kColumns>(to, go, scores, false);
    wgmma::commit();
  };

  // w holds dO^T P of turn m; at the end late holds that of the turn after.
  const auto turn = [&](int m, float(&w)[32], float(&late)[32]) {
    Stage<kDk>& z = s.stage[m % kStages];
    Results<kDk>& results = s.results[m % 2];
    const uint64_t keys = wgmma::rows(smem_addr(z.k));
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kRows>(late, copy, keys, false);
    wgmma::commit();
    wgmma::wait<1>();  // Nothing to wait for, but ptxas would otherwise before `state` is touched.
    wgmma::hold(state);
    const bool free = m == 0 || s.out_free.done((m - 1) & 1);
    // Under it: the query's part of dS.
    const float decay = z.gates.begin[63];
#pragma unroll
    for (float& x : state) {
      x *= decay;
    }
    const uint64_t queries = wgmma::columns(smem_addr(z.q), kTile);
    wgmma::hold(state);
    wgmma::hold(late_go);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns>(state, late_go, queries, true);
    wgmma::commit();
    // Under both: dS' goes out.
    float2 f[8];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      f[j] = *reinterpret_cast<const float2*>(z.gates.late + 8 * j + pair);
    }
    if (!free) {
      s.out_free.wait((m - 1) & 1);
    }
    store_operands(results.state, copy, warp, lane);
    wgmma::wait<1>();
    wgmma::hold(late);

    // Y, and dV in its place.
    uint32_t b[4][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float &x = w[4 * j + 2 * i], &y = w[4 * j + 2 * i + 1];
        x += f[j].x * late[4 * j + 2 * i];
        y += f[j].y * late[4 * j + 2 * i + 1];
        b[j / 2][2 * (j % 2) + i] = pack_bf16(x, y);
      }
    }
    const uint64_t solve = wgmma::columns(smem_addr(z.n));
    wgmma::hold(w);
    wgmma::hold(b);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns, -1>(w, b, solve, true);
    wgmma::commit();
    // Under it: dO^T P of the next turn (at the end, this one's again).
    const int next = m + 1 < at.chunks ? m + 1 : m;
    s.full[next % kStages].wait(this_turn<kStages>(next));
    load_transposed(go, s.stage[next % kStages].go, warp, lane);
    wgmma::hold(go);
    wgmma::fence_sums();
    multiply_scores(late, s.stage[next % kStages]);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      f[j] = *reinterpret_cast<const float2*>(z.gates.begin + 8 * j + pair);
    }
    wgmma::wait<1>();
    wgmma::hold(w);
    wgmma::hold(state);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        b[j / 2][2 * (j % 2) + i] =
            pack_bf16(f[j].x * w[4 * j + 2 * i], f[j].y * w[4 * j + 2 * i + 1]);
      }
    }
    const uint64_t depth = wgmma::columns(smem_addr(z.k), kTile);
    wgmma::hold(state);
    wgmma::hold(b);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns, -1>(state, b, depth, true);
    wgmma::commit();
    // Under it: dS' and dV go out; what the next turn needs of dO.
    uint32_t a[4][4];
    as_operand<4>(a, w);
    store_transposed(results.dv, a, warp, lane);
    fence_proxy_async();
    arrive_warp(s.out_full, lane);
    scale_go(s.stage[next % kStages]);
    wgmma::wait<0>();
    wgmma::hold(state);
    wgmma::hold(late);
    as_operand<kDk / 16>(copy, state);
    arrive_warp(s.free[m % kStages], lane);
  };

  if (at.chunks > 0) {
    float w[32], late[32];
    s.full[0].wait(0);
    if (at.cut(at.chunks - 1)) {
      const int id = 32 * warp + lane;
      clear_rows(s.stage[0].k, kDk / 64, at.tail, id, 128);
      clear_rows(s.stage[0].q, kDk / 64, at.tail, id, 128);
      clear_rows(s.stage[0].go, 1, at.tail, id, 128);
      fence_proxy_async();
      cuda::named_sync(1, 128);
    }
    load_transposed(go, s.stage[0].go, warp, lane);
    scale_go(s.stage[0]);
    wgmma::hold(go);
    wgmma::fence_sums();
    multiply_scores(w, s.stage[0]);
    wgmma::wait<0>();
    wgmma::hold(w);
    for (int m = 0; m < at.chunks; m += 2) {
      turn(m, w, late);
      if (m + 1 == at.chunks) {
        break;
      }
      turn(m + 1, late, w);
    }
  }
  if (args.gs0 && at.start >= 0) {
    forward::store_state<kDk>(state, args.gs0, at.start, at.slice, args.dk, args.dv, warp, lane);
  }
}

template <int kDk>
__device__ __forceinline__ void run(unsigned char* raw, int block, const CUtensorMap& q,
                                    const CUtensorMap& k, const CUtensorMap& go,
                                    const CUtensorMap& dv, const ReverseArguments& args) {
  Shared<kDk>& s = *reinterpret_cast<Shared<kDk>*>(raw);
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
    run_loop<kDk>(s, args, at, warp, lane);
  } else if (warp == 4) {
    if (lane == 0) {
      bring_tiles<kDk>(s, q, k, go, args, at);
    }
  } else {
    store_tail<kDk>(s, args, at, lane);
    __syncwarp();
    if (lane == 0) {
      store_results<kDk>(s, dv, args, at);
    }
  }
}

/// CTAs from `blocks` on, if there are any, make the states.
template <int kDk>
__global__ void __launch_bounds__(forward::kThreads, 1)
    reverse_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                   const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap go,
                   const __grid_constant__ CUtensorMap dv,
                   const __grid_constant__ ReverseArguments args,
                   const __grid_constant__ forward::Arguments states, int blocks) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char raw[];
  const int block = static_cast<int>(blockIdx.x);
  if (block < blocks) {
    run<kDk>(raw, block, q, k, go, dv, args);
  } else {
    forward::run<kDk, false, true>(raw, block - blocks, q, k, v, dv, states);
  }
#endif
}

}  // namespace

cudaError_t gated_delta_reverse(const DeltaSizes& z, const DeltaInputs& in, const bf16* go,
                                const float* gs_end, const void* kept, void* states,
                                void* gradients, bf16* dv, float* gs0, cudaStream_t stream,
                                const RowSteps& dv_steps) {
  CUtensorMap q, k, v, o, out;
  if (const cudaError_t e = encode_rows(&q, in.q, z.batch, z.tokens, z.key_heads, z.dk)) return e;
  if (const cudaError_t e = encode_rows(&k, in.k, z.batch, z.tokens, z.key_heads, z.dk)) return e;
  if (const cudaError_t e = encode_rows(&v, in.v, z.batch, z.tokens, z.heads, z.dv, in.v_steps)) {
    return e;
  }
  if (const cudaError_t e = encode_rows(&o, go, z.batch, z.tokens, z.heads, z.dv)) return e;
  if (const cudaError_t e = encode_rows(&out, dv, z.batch, z.tokens, z.heads, z.dv, dv_steps)) {
    return e;
  }
  const ReverseArguments args =
      reverse_arguments(z, in, gs_end, kept, gradients, dv, dv_steps, gs0);
  const forward::Arguments again = forward::arguments(z, in, nullptr, nullptr, kept, states);
  return with_width(z, [&](auto width) {
    constexpr int kDk = decltype(width)::kValue;
    if constexpr (kDk > 128) {
      return gated_delta_wide_reverse(z, q, k, v, o, out, args, again, stream);
    } else {
      using States = forward::Shared<kDk, false, true>;
      constexpr int kBytes = std::max(sizeof(Shared<kDk>), sizeof(States));
      static_assert(kBytes <= 227 * 1024);
      const auto kernel = reverse_kernel<kDk>;
      if (const cudaError_t e = allow_shared(kernel, kBytes)) return e;
      const int blocks = z.sequences() * z.heads * args.slices;
      kernel<<<static_cast<unsigned>(states ? 2 * blocks : blocks), forward::kThreads, kBytes,
               stream>>>(q, k, v, o, out, args, again, blocks);
      return cudaGetLastError();
    }
  });
}

}  // namespace ls::kernels::gated_delta
