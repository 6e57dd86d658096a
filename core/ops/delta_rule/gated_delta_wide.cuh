#pragma once
// Chunk loops of the gated delta rule at Dk 256: what forward and reverse share, and forward.
// A CTA is a chain and 128 value columns, or 64 where that leaves fewer processors idle at the end:
// a warpgroup for 64, with S^T [64 v][256 d] as sums
// in registers (128 a thread) and its bf16 copy in shared memory, which is the A operand of what
// reads the state and at once the image that goes out. Keys, queries and scores serve both.
//   warpgroup 0     warp 0 brings tiles: keys and scores a ring of two, queries and values one;
//                   warps 1 and 2 store what warpgroup 1 or 2 leaves
//   warpgroups 1, 2 the loop; while one computes with ordinary instructions the other has the
//                   tensor cores
// The products are those of gated_delta_forward.cuh, in an order that needs fewer registers.
#include "core/ops/delta_rule/gated_delta_forward.cuh"

namespace ls::kernels::gated_delta::wide {

inline constexpr int kDk = 256, kTiles = kDk / 64, kThreads = 384;

struct Scores {
  unsigned char n[kTile], p[kTile];
  ChunkGates gates;
};
static_assert(sizeof(Scores) == DeltaSizes::kKept);

struct alignas(1024) Shared {
  unsigned char k[2][kTiles * kTile], q[kTiles * kTile];
  unsigned char v[2][kTile];  // V or dO of each warpgroup
  Scores scores[2];
  unsigned char state[2][kTiles * kTile];
  unsigned char rows[2][kTile];                                     // O, X or dV on their way out
  Mbarrier keys_full[2], keys_free[2], queries_full, queries_free;  // keys: with scores
  Mbarrier values_full[2], values_free[2];
  Mbarrier state_full[2], state_free[2], rows_full[2], rows_free[2];  // to and from the stores
};
static_assert(sizeof(Shared) <= 227 * 1024);

/// The chain of this CTA, its first slice of 64 value columns, and how many it has: blocks below
/// `pairs` take two, the others one.
struct Place : Chain {
  int slice, groups;
  __device__ Place(const Layout& layout, int slices, int block, int pairs)
      : Place(layout, slices, block < pairs ? 2 * block : pairs + block, block < pairs) {}

 private:
  __device__ Place(const Layout& layout, int slices, int first, bool pair)
      : Chain(layout, first / slices), slice(first % slices), groups(pair ? 2 : 1) {}
};

__device__ __forceinline__ void init_barriers(Shared& s, int groups) {
  for (int i = 0; i < 2; ++i) {
    s.keys_full[i].init(1);
    s.keys_free[i].init(4 * groups * kWarpArrivals);
    s.values_full[i].init(1);
    s.values_free[i].init(4 * kWarpArrivals);
    s.state_full[i].init(4 * kWarpArrivals);
    s.state_free[i].init(1);
    s.rows_full[i].init(4 * kWarpArrivals);
    s.rows_free[i].init(1);
  }
  s.queries_full.init(1);
  s.queries_free.init(4 * groups * kWarpArrivals);
  fence_barrier_init();
}

enum class Loop { kForward, kStates, kReverse };

/// The chunk of turn m.
template <Loop kLoop>
__device__ __forceinline__ int chunk_of(const Place& at, int m) {
  return kLoop == Loop::kReverse ? at.chunks - 1 - m : m;
}

/// By one thread.
template <Loop kLoop>
__device__ __forceinline__ void bring_tiles(Shared& s, const CUtensorMap& q, const CUtensorMap& k,
                                            const CUtensorMap& v, const unsigned char* kept,
                                            const Place& at) {
  for (int m = 0; m < at.chunks; ++m) {
    const int n = chunk_of<kLoop>(at, m), token = at.first + 64 * n;
    Mbarrier& keys = s.keys_full[m % 2];
    if (m >= 2) {
      s.keys_free[m % 2].wait((m / 2 - 1) & 1);
    }
    constexpr bool kAll = kLoop != Loop::kStates;
    keys.arrive_expect((kTiles + (kAll ? 2 : 1)) * kTile + sizeof(ChunkGates));
    for (int i = 0; i < kTiles; ++i) {
      load_box(s.k[m % 2] + i * kTile, &k, keys, 64 * i, at.key_head, token, at.row);
    }
    const unsigned char* record = kept + (at.record + n) * DeltaSizes::kKept;
    Scores& scores = s.scores[m % 2];
    if (kAll) {
      load_bytes(scores.n, record, DeltaSizes::kKept, keys);
    } else {
      load_bytes(scores.n, record, kTile, keys);
      load_bytes(&scores.gates, record + 2 * kTile, sizeof(ChunkGates), keys);
    }
    for (int i = 0; i < at.groups; ++i) {
      if (m >= 1) {
        s.values_free[i].wait((m - 1) & 1);
      }
      s.values_full[i].arrive_expect(kTile);
      load_box(s.v[i], &v, s.values_full[i], 64 * (at.slice + i), at.head, token, at.row);
    }
    if (kAll) {
      if (m >= 1) {
        s.queries_free.wait((m - 1) & 1);
      }
      s.queries_full.arrive_expect(kTiles * kTile);
      for (int i = 0; i < kTiles; ++i) {
        load_box(s.q + i * kTile, &q, s.queries_full, 64 * i, at.key_head, token, at.row);
      }
    }
  }
}

/// By one warp, for one warpgroup: images of the state (not in forward) and rows: O and dV to
/// `rows`, of which `to` is the map, X to records.
template <Loop kLoop>
__device__ __forceinline__ void store_results(Shared& s, int i, const CUtensorMap* to, bf16* rows,
                                              const RowSteps& steps, const Records& records, int dv,
                                              const Place& at, int lane) {
  const int slice = at.slice + i;
  for (int m = 0; m < at.chunks; ++m) {
    const int n = chunk_of<kLoop>(at, m), token = at.first + 64 * n;
    if (kLoop != Loop::kForward) {
      s.state_full[i].wait(m & 1);
      if (lane == 0) {
        store_bytes(records.state(at.record + n, slice), s.state[i], kTiles * kTile);
        commit_stores();
        wait_stores_read<0>();
        s.state_free[i].arrive();
      }
    }
    s.rows_full[i].wait(m & 1);
    const bool cut = kLoop != Loop::kStates && at.cut(n);
    if (cut) {
      copy_rows(rows + token * steps.token + at.head * steps.head + 64 * slice, steps.token,
                s.rows[i], at.tail, dv - 64 * slice, lane, 32);
      __syncwarp();
    }
    if (lane == 0) {
      if (kLoop == Loop::kStates) {
        store_bytes(records.value(at.record + n, slice), s.rows[i], kTile);
      } else if (!cut && 64 * slice < dv) {
        store_box(to, s.rows[i], 64 * slice, at.head, token, at.row);
      }
      commit_stores();
      wait_stores_read<0>();
      s.rows_free[i].arrive();
    }
    __syncwarp();
  }
  if (lane == 0) {
    wait_stores<0>();
  }
}

/// The bf16 copy of the sums, image and operand.
__device__ __forceinline__ void store_copy(const float (&state)[kDk / 2], uint32_t image, int warp,
                                           int lane) {
#pragma unroll
  for (int i = 0; i < kDk / 16; ++i) {
    const float* x = state + 8 * i;
    store_matrices(block_address(image + i / 4 * kTile, 16 * warp, 16 * (i % 4), lane),
                   cuda::pack_bf16(x[0], x[1]), cuda::pack_bf16(x[2], x[3]),
                   cuda::pack_bf16(x[4], x[5]), cuda::pack_bf16(x[6], x[7]));
  }
}
/// sums = (copy of the state) b^T over 256 columns; issued and committed.
__device__ __forceinline__ void read_state(float (&sums)[32], uint64_t copy, uint64_t b) {
  wgmma::fence_sums();
#pragma unroll
  for (int i = 0; i < kDk / 16; ++i) {
    wgmma::multiply<64, Depth::kRows, Depth::kRows>(sums, wgmma::step_rows(copy, i),
                                                    wgmma::step_rows(b, i), i > 0);
  }
  wgmma::commit();
}
/// Zeros behind the document's last token in all that came; both warpgroups write the same.
template <Loop kLoop>
__device__ __forceinline__ void clear_tail(Shared& s, const Place& at, int m, int i, int warp,
                                           int lane) {
  const int id = 32 * warp + lane;
  s.values_full[i].wait(m & 1);
  clear_rows(s.k[m % 2], kTiles, at.tail, id, 128);
  clear_rows(s.v[i], 1, at.tail, id, 128);
  if (kLoop != Loop::kStates) {
    s.queries_full.wait(m & 1);
    clear_rows(s.q, kTiles, at.tail, id, 128);
  }
  fence_proxy_async();
  cuda::named_sync(1 + i, 128);
}
/// Warpgroup `i` of forward, which leaves O, or of states, which leaves S and X.
template <Loop kLoop>
__device__ __forceinline__ void run_forward(Shared& s, const forward::Arguments& args,
                                            const Place& at, int i, int warp, int lane) {
  constexpr bool kOutput = kLoop == Loop::kForward;
  const int pair = 2 * (lane & 3), slice = at.slice + i;
  float state[kDk / 2];
  forward::load_state<kDk>(state, args.s0, at.start, slice, args.s0 && at.start >= 0 ? args.dk : 0,
                           args.dv, warp, lane);
  const uint32_t image = smem_addr(s.state[i]);
  const uint64_t copy = wgmma::rows(image);
  store_copy(state, image, warp, lane);
  fence_proxy_async();
  for (int n = 0; n < at.chunks; ++n) {
    float u[32];  // U, W', X; then O
    const Scores& z = s.scores[n % 2];
    const unsigned char* k = s.k[n % 2];
    if (!kOutput) {
      arrive_warp(s.state_full[i], lane);
    }
    cuda::named_sync(1 + i, 128);
    s.keys_full[n % 2].wait((n / 2) & 1);
    if (at.cut(n)) {
      clear_tail<kLoop>(s, at, n, i, warp, lane);
    }
    read_state(u, copy, wgmma::rows(smem_addr(k)));
    wgmma::wait<1>();  // Nothing to wait for, but ptxas would otherwise before `state` is touched.
    wgmma::hold(state);
    // Under U: the state decays (before a wait, or ptxas would do it between products); V.
    uint32_t w[4][4];
    const float decay = z.gates.begin[63];
#pragma unroll
    for (float& x : state) {
      x *= decay;
    }
    wgmma::hold(state);
    s.values_full[i].wait(n & 1);
    load_transposed(w, s.v[i], warp, lane);
    wgmma::wait<0>();
    wgmma::hold(u);
    // W' in the place of U.
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 begin = *reinterpret_cast<const float2*>(z.gates.begin + 8 * j + pair);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        uint32_t& value = w[j / 2][2 * (j % 2) + h];
        float &x = u[4 * j + 2 * h], &y = u[4 * j + 2 * h + 1];
        x = low_bf16(value) - begin.x * x;
        y = high_bf16(value) - begin.y * y;
        value = pack_bf16(x, y);
      }
    }
    const uint64_t solve = wgmma::rows(smem_addr(z.n));
    wgmma::hold(u);
    wgmma::hold(w);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kRows, -1>(u, w, solve, true);
    wgmma::commit();
    arrive_warp(s.values_free[i], lane);
    wgmma::wait<0>();
    wgmma::hold(u);
    // X, with beta and its decay to the chunk's end, for the state; and as it is.
    uint32_t late[4][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 last = *reinterpret_cast<const float2*>(z.gates.late + 8 * j + pair);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const float x = u[4 * j + 2 * h], y = u[4 * j + 2 * h + 1];
        w[j / 2][2 * (j % 2) + h] = pack_bf16(x, y);
        late[j / 2][2 * (j % 2) + h] = pack_bf16(last.x * x, last.y * y);
      }
    }
    if constexpr (kOutput) {
      s.queries_full.wait(n & 1);
      read_state(u, copy, wgmma::rows(smem_addr(s.q)));
    }
    const uint64_t depth = wgmma::columns(smem_addr(k), kTile);
    wgmma::hold(state);
    wgmma::hold(late);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns>(state, late, depth, true);
    wgmma::commit();
    if constexpr (kOutput) {
      wgmma::wait<1>();
      wgmma::hold(u);
      arrive_warp(s.queries_free, lane);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float2 begin = *reinterpret_cast<const float2*>(z.gates.begin + 8 * j + pair);
        const float g0 = args.scale * begin.x, g1 = args.scale * begin.y;
        u[4 * j] *= g0;
        u[4 * j + 1] *= g1;
        u[4 * j + 2] *= g0;
        u[4 * j + 3] *= g1;
      }
      const uint64_t reads = wgmma::rows(smem_addr(z.p));
      wgmma::hold(u);
      wgmma::hold(w);
      wgmma::fence_sums();
      wgmma::multiply_steps<Depth::kRows>(u, w, reads, true);
      wgmma::commit();
    } else {
      if (n > 0) {
        s.rows_free[i].wait((n - 1) & 1);
      }
      store_transposed(s.rows[i], w, warp, lane);
      fence_proxy_async();
      arrive_warp(s.rows_full[i], lane);
      s.state_free[i].wait(n & 1);
    }
    wgmma::wait<kOutput ? 1 : 0>();
    wgmma::hold(state);
    cuda::named_sync(1 + i, 128);  // nobody's product reads the copy any more
    store_copy(state, image, warp, lane);
    if constexpr (kOutput) {
      wgmma::wait<0>();
      wgmma::hold(u);
      as_operand<4>(w, u);
      if (n > 0) {
        s.rows_free[i].wait((n - 1) & 1);
      }
      store_transposed(s.rows[i], w, warp, lane);
    }
    fence_proxy_async();
    arrive_warp(s.keys_free[n % 2], lane);
    if (kOutput) {
      arrive_warp(s.rows_full[i], lane);
    }
  }
  if (args.s_end && at.end >= 0) {
    forward::store_state<kDk>(state, args.s_end, at.end, slice, args.dk, args.dv, warp, lane);
  }
}

/// A CTA of kThreads of forward or of states.
template <Loop kLoop>
__device__ __forceinline__ void run(Shared& s, int block, const CUtensorMap& q,
                                    const CUtensorMap& k, const CUtensorMap& v,
                                    const CUtensorMap& o, const forward::Arguments& args,
                                    int pairs) {
  const Place at(args.layout, args.slices, block, pairs);
  const int warp = warp_index(), lane = lane_index();
  if (threadIdx.x == 0) {
    init_barriers(s, at.groups);
  }
  __syncthreads();
  if (warp < 4) {
    cuda::fewer_registers<40>();
    if (warp == 0 && lane == 0) {
      bring_tiles<kLoop>(s, q, k, v, args.kept, at);
    } else if (warp >= 1 && warp <= at.groups) {
      const RowSteps steps = RowSteps().of(args.layout.tokens, args.layout.heads, args.dv);
      store_results<kLoop>(s, warp - 1, &o, args.o, steps, args.records, args.dv, at, lane);
    }
  } else {
    cuda::more_registers<232>();
    if (warp / 4 <= at.groups) {
      run_forward<kLoop>(s, args, at, warp / 4 - 1, warp % 4, lane);
    }
  }
}

}  // namespace ls::kernels::gated_delta::wide
