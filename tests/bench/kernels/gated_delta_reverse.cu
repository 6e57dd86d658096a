// Reverse chunk loop of the gated delta rule: gradients of the states, and E (dV = beta E), without
// the states themselves. One CTA of one warpgroup a chain and 64 value columns, as in forward:
//   dW^T = (exp(G_C - G) (dS'^T K^T)) + dO^T P        E^T = dW^T - (beta dW)^T N
//   dS^T = exp(G_C) dS'^T + scale (exp(G) dO)^T Q - (exp(G) beta E)^T K
// dS' after each chunk and E go out as images for the kernel that makes the other gradients.
#include "gated_delta_kernels.cuh"

namespace ls::kernels {
namespace {

using namespace ls::cuda;
using wgmma::Depth;

constexpr int kStages = 3;

struct alignas(1024) Stage {
  unsigned char k[2 * kTile], q[2 * kTile], go[kTile];
  unsigned char n[kTile], p[kTile];  // with gates one record of `kept`
  ChunkGates gates;
};
struct alignas(1024) Shared {
  Stage stage[kStages];
  unsigned char state[2 * kTile];
  Mbarrier full[kStages];
};

struct Arguments {
  const unsigned char* kept;
  Records records;
  const float* gs_end;
  float* gs0;
  int heads, chunks, dv;
  float scale;
};

__global__ void __launch_bounds__(128, 1)
    reverse_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                   const __grid_constant__ CUtensorMap go, const __grid_constant__ Arguments args) {
  extern __shared__ __align__(1024) unsigned char raw[];
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int group = lane >> 2, pair = 2 * (lane & 3);
  const int slices = args.dv / 64, slice = blockIdx.x % slices, chain = blockIdx.x / slices;
  const int head = chain % args.heads, b = chain / args.heads;
  const int64_t first_record = static_cast<int64_t>(chain) * args.chunks;
  const bool leader = threadIdx.x == 0;

  // Step m is chunk chunks - 1 - m.
  const auto load = [&](int m) {
    const int n = args.chunks - 1 - m;
    Stage& to = s.stage[m % kStages];
    Mbarrier& full = s.full[m % kStages];
    full.arrive_expect(7 * kTile + sizeof(ChunkGates));
    for (int i = 0; i < 2; ++i) {
      load_box(to.k + i * kTile, &k, full, 64 * i, head, 64 * n, b);
    }
    load_box(to.go, &go, full, 64 * slice, head, 64 * n, b);
    load_bytes(to.n, args.kept + (first_record + n) * DeltaSizes::kKept,
               2 * kTile + sizeof(ChunkGates), full);
    for (int i = 0; i < 2; ++i) {
      load_box(to.q + i * kTile, &q, full, 64 * i, head, 64 * n, b);
    }
  };
  if (leader) {
    for (auto& full : s.full) {
      full.init(1);
    }
    fence_barrier_init();
    for (int m = 0; m < kStages - 1 && m < args.chunks; ++m) {
      load(m);
    }
  }

  // dS'^T, laid out as S^T in forward.
  float state[kDk / 2];
  const int64_t state_at = static_cast<int64_t>(chain) * kDk * args.dv + 64 * slice + 16 * warp +
                           group;
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) {
    const int d = 8 * (i / 4) + pair + i % 2;
    state[i] =
        args.gs_end ? args.gs_end[state_at + static_cast<int64_t>(d) * args.dv + (i & 2) * 4] : 0.f;
  }
  uint32_t copy[kDk / 16][4];
  as_operand<kDk / 16>(copy, state);
  __syncthreads();

  // E of the step before, in the place of dO, from where it goes out.
  uint32_t packed[4][4];
  const auto stage_e = [&](int m) {
    const uint32_t tile = smem_addr(s.stage[m % kStages].go);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      store_matrices_t(block_address_t(tile, 16 * i, 16 * warp, lane), packed[i][0], packed[i][1],
                       packed[i][2], packed[i][3]);
    }
  };
  const auto send_e = [&](int m) {
    store_bytes(args.records.value(first_record + args.chunks - 1 - m, slice),
                s.stage[m % kStages].go, kTile);
  };

  float w[32], late[32];
  for (int m = 0; m < args.chunks; ++m) {
    Stage& z = s.stage[m % kStages];
    s.full[m % kStages].wait((m / kStages) & 1);
    uint32_t go_t[4][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      load_matrices_t(go_t[i], block_address_t(smem_addr(z.go), 16 * i, 16 * warp, lane));
    }
    const uint64_t keys = wgmma::rows(smem_addr(z.k));
    const uint64_t scores = wgmma::columns(smem_addr(z.p));
    wgmma::hold(go_t);
    wgmma::fence_sums();
#pragma unroll
    for (int i = 0; i < kDk / 16; ++i) {
      wgmma::multiply<64, Depth::kRows>(late, copy[i], wgmma::step_rows(keys, i), i > 0);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma::multiply<64, Depth::kColumns>(w, go_t[i], wgmma::step_columns(scores, i), i > 0);
    }
    wgmma::commit();
    wgmma::wait<1>();  // Nothing to wait for, but ptxas would otherwise before `state` is touched.
    wgmma::hold(state);
    // Under them: what goes out, and the query's part of dS.
    if (m > 0) {
      stage_e(m - 1);
    }
#pragma unroll
    for (int i = 0; i < kDk / 16; ++i) {
      store_matrices(
          block_address(smem_addr(s.state) + i / 4 * kTile, 16 * warp, 16 * (i % 4), lane),
          copy[i][0], copy[i][1], copy[i][2], copy[i][3]);
    }
    fence_proxy_async();
    __syncthreads();
    if (leader) {
      if (m > 0) {
        send_e(m - 1);
      }
      store_bytes(args.records.state(first_record + args.chunks - 1 - m, slice), s.state,
                  2 * kTile);
      commit_stores();
    }
    uint32_t go_q[4][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 g = *reinterpret_cast<const float2*>(z.gates.begin + 8 * j + pair);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t from = go_t[j / 2][2 * (j % 2) + i];
        go_q[j / 2][2 * (j % 2) + i] =
            pack_bf16(args.scale * g.x * low_bf16(from), args.scale * g.y * high_bf16(from));
      }
    }
    const float decay = z.gates.begin[63];
#pragma unroll
    for (float& x : state) {
      x *= decay;
    }
    const uint64_t queries = wgmma::columns(smem_addr(z.q), kTile);
    wgmma::hold(state);
    wgmma::hold(go_q);
    wgmma::fence_sums();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma::multiply<kDk, Depth::kColumns>(state, go_q[i], wgmma::step_columns(queries, i), true);
    }
    wgmma::commit();
    wgmma::wait<1>();
    wgmma::hold(w);
    wgmma::hold(late);

    // dW, and E in its place.
    uint32_t a[4][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 g = *reinterpret_cast<const float2*>(z.gates.end + 8 * j + pair);
      const float2 beta = *reinterpret_cast<const float2*>(z.gates.beta + 8 * j + pair);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float &x = w[4 * j + 2 * i], &y = w[4 * j + 2 * i + 1];
        x += g.x * late[4 * j + 2 * i];
        y += g.y * late[4 * j + 2 * i + 1];
        a[j / 2][2 * (j % 2) + i] = pack_bf16(beta.x * x, beta.y * y);
      }
    }
    const uint64_t solve = wgmma::columns(smem_addr(z.n));
    wgmma::hold(w);
    wgmma::fence_sums();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma::multiply<64, Depth::kColumns, -1>(w, a[i], wgmma::step_columns(solve, i), true);
    }
    wgmma::commit();
    // Under it: the stage of the step before is free once E has been read from it.
    if (leader) {
      wait_stores_read<0>();
      if (m + kStages - 1 < args.chunks) {
        load(m + kStages - 1);
      }
    }
    wgmma::wait<0>();
    wgmma::hold(w);
    wgmma::hold(state);
    as_operand<4>(packed, w);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float2 g = *reinterpret_cast<const float2*>(z.gates.begin + 8 * j + pair);
      const float2 beta = *reinterpret_cast<const float2*>(z.gates.beta + 8 * j + pair);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        a[j / 2][2 * (j % 2) + i] = pack_bf16(g.x * beta.x * w[4 * j + 2 * i],
                                              g.y * beta.y * w[4 * j + 2 * i + 1]);
      }
    }
    const uint64_t depth = wgmma::columns(smem_addr(z.k), kTile);
    wgmma::hold(state);
    wgmma::hold(a);
    wgmma::fence_sums();
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      wgmma::multiply<kDk, Depth::kColumns, -1>(state, a[i], wgmma::step_columns(depth, i), true);
    }
    wgmma::commit();
    // The leader has waited until the image of dS' was read: it may be written again.
    named_sync(1, 128);
    wgmma::wait<0>();
    wgmma::hold(state);
    as_operand<kDk / 16>(copy, state);
  }
  if (args.chunks > 0) {
    stage_e(args.chunks - 1);
    fence_proxy_async();
    __syncthreads();
    if (leader) {
      send_e(args.chunks - 1);
      commit_stores();
    }
  }
  if (args.gs0) {
#pragma unroll
    for (int i = 0; i < kDk / 2; ++i) {
      const int d = 8 * (i / 4) + pair + i % 2;
      args.gs0[state_at + static_cast<int64_t>(d) * args.dv + (i & 2) * 4] = state[i];
    }
  }
  if (leader) {
    wait_stores<0>();
  }
}

}  // namespace

cudaError_t gated_delta_reverse(const DeltaSizes& z, const DeltaInputs& in, const bf16* go,
                                const float* gs_end, const void* kept, void* gradients, float* gs0,
                                cudaStream_t stream) {
  CUtensorMap q, k, o;
  if (const cudaError_t e = encode_rows(&q, in.q, z.batch, z.tokens, z.heads, kDk)) return e;
  if (const cudaError_t e = encode_rows(&k, in.k, z.batch, z.tokens, z.heads, kDk)) return e;
  if (const cudaError_t e = encode_rows(&o, go, z.batch, z.tokens, z.heads, z.dv)) return e;
  constexpr int kBytes = sizeof(Shared);
  if (const cudaError_t e = allow_shared(reverse_kernel, kBytes)) return e;
  const Arguments args{static_cast<const unsigned char*>(kept), records_in(z, gradients),
                       gs_end, gs0, z.heads, z.chunks(), z.dv, z.scale};
  const int grid = z.batch * z.heads * (z.dv / 64);
  reverse_kernel<<<grid, 128, kBytes, stream>>>(q, k, o, args);
  return cudaGetLastError();
}

}  // namespace ls::kernels
