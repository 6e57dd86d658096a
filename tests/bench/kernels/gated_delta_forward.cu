// Forward chunk loop of the gated delta rule. One CTA of one warpgroup a chain and 64 value
// columns; the state stays in registers, transposed (S^T: value rows, f32 sums of wgmma), and its
// bf16 copy is the A operand from registers. Every product has 64 value rows and its B operand in
// shared memory, so neither S nor W nor X is ever written there to be multiplied:
//   U^T = S^T K^T        X^T = W'^T - (beta W')^T N^T, W' = V - exp(G) U
//   O^T = exp(G) S^T Q^T + (beta X)^T P^T      S^T = exp(G_C) S^T + (exp(G_C - G) beta X)^T K
// Thread 0 keeps tiles two chunks ahead in a ring of three. Writing O and starting the next
// chunk's U overlap.
#include "gated_delta_kernels.cuh"

namespace ls::kernels {

cudaError_t gated_delta_scores(const DeltaSizes& z, const DeltaInputs& in, void* kept,
                               cudaStream_t stream);

namespace {

using namespace ls::cuda;
using wgmma::Depth;

constexpr int kStages = 3;

struct alignas(1024) Stage {
  unsigned char k[2 * kTile], q[2 * kTile], v[kTile];
  unsigned char n[kTile], p[kTile];  // with gates one record of `kept`
  ChunkGates gates;
};
template <bool kStates>
struct alignas(1024) Shared {
  Stage stage[kStages];
  unsigned char state[kStates ? 2 * kTile : 1024], value[kStates ? kTile : 1024];
  Mbarrier full[kStages];
};

struct Arguments {
  const unsigned char* kept;
  Records records;
  const float* s0;
  float* s_end;
  int heads, chunks, dv;
  float scale;
};

/// kOutput: o is wanted; kStates: records of the states and X are.
template <bool kOutput, bool kStates>
__global__ void __launch_bounds__(128, 1)
    forward_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                   const __grid_constant__ CUtensorMap v, const __grid_constant__ CUtensorMap o,
                   const __grid_constant__ Arguments args) {
  extern __shared__ __align__(1024) unsigned char raw[];
  using Memory = Shared<kStates>;
  Memory& s = *reinterpret_cast<Memory*>(raw);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = lane >> 2, pair = 2 * (lane & 3);
  const int slices = args.dv / 64, slice = blockIdx.x % slices, chain = blockIdx.x / slices;
  const int head = chain % args.heads, b = chain / args.heads;
  const int64_t first_record = static_cast<int64_t>(chain) * args.chunks;
  const bool leader = threadIdx.x == 0;

  const auto load = [&](int n) {
    Stage& to = s.stage[n % kStages];
    Mbarrier& full = s.full[n % kStages];
    constexpr uint32_t kScores = (kOutput ? 2 : 1) * kTile;
    full.arrive_expect((kOutput ? 4 : 2) * kTile + kTile + kScores + sizeof(ChunkGates));
    for (int i = 0; i < 2; ++i) {
      load_box(to.k + i * kTile, &k, full, 64 * i, head, 64 * n, b);
    }
    load_box(to.v, &v, full, 64 * slice, head, 64 * n, b);
    const unsigned char* record = args.kept + (first_record + n) * DeltaSizes::kKept;
    load_bytes(to.n, record, kScores, full);
    load_bytes(&to.gates, record + 2 * kTile, sizeof(ChunkGates), full);
    if constexpr (kOutput) {
      for (int i = 0; i < 2; ++i) {
        load_box(to.q + i * kTile, &q, full, 64 * i, head, 64 * n, b);
      }
    }
  };
  if (leader) {
    for (auto& full : s.full) {
      full.init(1);
    }
    fence_barrier_init();
    for (int n = 0; n < kStages - 1 && n < args.chunks; ++n) {
      load(n);
    }
  }

  // S^T: rows (values) 16 warp + group (+8), columns (keys) 8 j + pair (+1).
  float state[kDk / 2];
  const int64_t state_at = static_cast<int64_t>(chain) * kDk * args.dv + 64 * slice + 16 * warp +
                           group;
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) {
    const int d = 8 * (i / 4) + pair + i % 2;
    state[i] = args.s0 ? args.s0[state_at + static_cast<int64_t>(d) * args.dv + (i & 2) * 4] : 0.f;
  }
  uint32_t copy[kDk / 16][4];
  as_operand<kDk / 16>(copy, state);
  __syncthreads();

  // Leaves of chunk n what its registers hold: O (packed) in the place of V, from where it goes out.
  uint32_t packed[4][4];
  const auto stage_output = [&](int n) {
    const uint32_t tile = smem_addr(s.stage[n % kStages].v);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      store_matrices_t(block_address_t(tile, 16 * i, 16 * warp, lane), packed[i][0], packed[i][1],
                       packed[i][2], packed[i][3]);
    }
  };
  const auto send_output = [&](int n) {
    if (kOutput) {
      store_box(&o, s.stage[n % kStages].v, 64 * slice, head, 64 * n, b);
    }
    if (kStates) {
      store_bytes(args.records.value(first_record + n, slice), s.value, kTile);
    }
  };

  float u[32], out[32];
  for (int n = 0; n < args.chunks; ++n) {
    Stage& z = s.stage[n % kStages];
    s.full[n % kStages].wait((n / kStages) & 1);
    const uint64_t keys = wgmma::rows(smem_addr(z.k));
    wgmma::fence_sums();
#pragma unroll
    for (int i = 0; i < kDk / 16; ++i) {
      wgmma::multiply<64, Depth::kRows>(u, copy[i], wgmma::step_rows(keys, i), i > 0);
    }
    wgmma::commit();
    if constexpr (kOutput) {
      const uint64_t queries = wgmma::rows(smem_addr(z.q));
#pragma unroll
      for (int i = 0; i < kDk / 16; ++i) {
        wgmma::multiply<64, Depth::kRows>(out, copy[i], wgmma::step_rows(queries, i), i > 0);
      }
    }
    wgmma::commit();
    // Under them: the last chunk's output, this one's state.
    if (kOutput && n > 0) {
      stage_output(n - 1);
    }
    if constexpr (kStates) {
#pragma unroll
      for (int i = 0; i < kDk / 16; ++i) {
        store_matrices(
            block_address(smem_addr(s.state) + i / 4 * kTile, 16 * warp, 16 * (i % 4), lane),
            copy[i][0], copy[i][1], copy[i][2], copy[i][3]);
      }
    }
    fence_proxy_async();
    __syncthreads();
    if (leader) {
      if (n > 0) {
        send_output(n - 1);
      }
      if (kStates) {
        store_bytes(args.records.state(first_record + n, slice), s.state, 2 * kTile);
      }
      commit_stores();
    }

    // W' in the place of U.
    uint32_t w[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      load_matrices_t(w[i], block_address_t(smem_addr(z.v), 16 * i, 16 * warp, lane));
    }
    wgmma::wait<1>();
    wgmma::hold(u);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 g = *reinterpret_cast<const float2*>(z.gates.begin + 8 * j + pair);
      const float2 beta = *reinterpret_cast<const float2*>(z.gates.beta + 8 * j + pair);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t& value = w[j / 2][2 * (j % 2) + i];
        float &x = u[4 * j + 2 * i], &y = u[4 * j + 2 * i + 1];
        x = low_bf16(value) - g.x * x;
        y = high_bf16(value) - g.y * y;
        value = pack_bf16(beta.x * x, beta.y * y);
      }
    }
    const uint64_t solve = wgmma::rows(smem_addr(z.n));
    wgmma::hold(u);
    wgmma::fence_sums();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma::multiply<64, Depth::kRows, -1>(u, w[i], wgmma::step_rows(solve, i), true);
    }
    wgmma::commit();
    // Under it: the stage of the chunk before is free, its output has been read long ago.
    if (leader) {
      wait_stores_read<0>();
      if (n + kStages - 1 < args.chunks) {
        load(n + kStages - 1);
      }
    }
    const float decay = z.gates.begin[63];
#pragma unroll
    for (float& x : state) {
      x *= decay;
    }
    wgmma::wait<0>();
    wgmma::hold(u);
    wgmma::hold(out);
    if constexpr (kStates) {
      // Whoever writes here has passed the barrier above after the leader's last wait; the leader's
      // wait of this chunk comes before its own next barrier.
      named_sync(1, 128);
      uint32_t r[4][4];
      as_operand<4>(r, u);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        store_matrices_t(block_address_t(smem_addr(s.value), 16 * i, 16 * warp, lane), r[i][0],
                         r[i][1], r[i][2], r[i][3]);
      }
    }
    // W = beta X, for the output and, with its decay to the chunk's end, for the state.
    uint32_t late[4][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 beta = *reinterpret_cast<const float2*>(z.gates.beta + 8 * j + pair);
      const float2 g = *reinterpret_cast<const float2*>(z.gates.end + 8 * j + pair);
      const float2 from = *reinterpret_cast<const float2*>(z.gates.begin + 8 * j + pair);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float x = beta.x * u[4 * j + 2 * i], y = beta.y * u[4 * j + 2 * i + 1];
        w[j / 2][2 * (j % 2) + i] = pack_bf16(x, y);
        late[j / 2][2 * (j % 2) + i] = pack_bf16(g.x * x, g.y * y);
        out[4 * j + 2 * i] *= args.scale * from.x;
        out[4 * j + 2 * i + 1] *= args.scale * from.y;
      }
    }
    const uint64_t depth = wgmma::columns(smem_addr(z.k), kTile);
    wgmma::hold(state);
    wgmma::hold(out);
    wgmma::fence_sums();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma::multiply<kDk, Depth::kColumns>(state, late[i], wgmma::step_columns(depth, i), true);
    }
    wgmma::commit();
    if constexpr (kOutput) {
      const uint64_t scores = wgmma::rows(smem_addr(z.p));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        wgmma::multiply<64, Depth::kRows>(out, w[i], wgmma::step_rows(scores, i), true);
      }
    }
    wgmma::commit();
    wgmma::wait<1>();
    wgmma::hold(state);
    as_operand<kDk / 16>(copy, state);
    wgmma::wait<0>();
    if constexpr (kOutput) {
      wgmma::hold(out);
      as_operand<4>(packed, out);
    }
  }
  if (args.chunks > 0) {
    if (kOutput) {
      stage_output(args.chunks - 1);
    }
    fence_proxy_async();
    __syncthreads();
    if (leader) {
      send_output(args.chunks - 1);
      commit_stores();
    }
  }
  if (args.s_end) {
#pragma unroll
    for (int i = 0; i < kDk / 2; ++i) {
      const int d = 8 * (i / 4) + pair + i % 2;
      args.s_end[state_at + static_cast<int64_t>(d) * args.dv + (i & 2) * 4] = state[i];
    }
  }
  if (leader) {
    wait_stores<0>();
  }
}

template <bool kOutput, bool kStates>
cudaError_t launch(const DeltaSizes& z, const DeltaInputs& in, bf16* o, float* s_end,
                   const void* kept, void* states, cudaStream_t stream) {
  CUtensorMap q, k, v, out;
  if (const cudaError_t e = encode_rows(&q, in.q, z.batch, z.tokens, z.heads, kDk)) return e;
  if (const cudaError_t e = encode_rows(&k, in.k, z.batch, z.tokens, z.heads, kDk)) return e;
  if (const cudaError_t e = encode_rows(&v, in.v, z.batch, z.tokens, z.heads, z.dv)) return e;
  if (const cudaError_t e =
          encode_rows(&out, kOutput ? o : in.v, z.batch, z.tokens, z.heads, z.dv)) {
    return e;
  }
  constexpr int kBytes = sizeof(Shared<kStates>);
  if (const cudaError_t e = allow_shared(forward_kernel<kOutput, kStates>, kBytes)) return e;
  const Arguments args{static_cast<const unsigned char*>(kept), records_in(z, states),
                       in.s0, s_end, z.heads, z.chunks(), z.dv, z.scale};
  const int grid = z.batch * z.heads * (z.dv / 64);
  forward_kernel<kOutput, kStates><<<grid, 128, kBytes, stream>>>(q, k, v, out, args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t gated_delta_forward(const DeltaSizes& z, const DeltaInputs& in, bf16* o, float* s_end,
                                void* kept, void* states, cudaStream_t stream) {
  if (const cudaError_t e = gated_delta_scores(z, in, kept, stream)) return e;
  return states ? launch<true, true>(z, in, o, s_end, kept, states, stream)
                : launch<true, false>(z, in, o, s_end, kept, nullptr, stream);
}

cudaError_t gated_delta_states(const DeltaSizes& z, const DeltaInputs& in, const void* kept,
                               void* states, cudaStream_t stream) {
  return launch<false, true>(z, in, nullptr, nullptr, kept, states, stream);
}

}  // namespace ls::kernels
