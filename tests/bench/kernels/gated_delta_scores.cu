// Chunk-parallel part of the gated delta rule: gates, N (the inverse) and P of every chunk.
// One CTA a chunk and head, two warpgroups: the first K K^T and the solve, the second Q K^T.
// Moves 512 bytes of q, k in and 272 of the record out per token and head.
#include "gated_delta_scores.cuh"

namespace ls::kernels {
namespace {

using namespace ls::cuda;

/// N and P take the places of k and q, so that more CTAs fit.
struct alignas(1024) Shared {
  unsigned char k[2 * kTile], q[2 * kTile];
  float lower[kLowerFloats];
  ChunkGates gates;
  BlockGates blocks;
  Mbarrier full;
};

__global__ void __launch_bounds__(256, 4)
    scores_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                  const float* g, const bf16* beta, unsigned char* kept, int tokens, int heads,
                  int chunks, float scale) {
  extern __shared__ __align__(1024) unsigned char raw[];
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const int warp = warp_index(), lane = lane_index();
  const int64_t record = blockIdx.x;
  const int chunk = static_cast<int>(record % chunks), chain = static_cast<int>(record / chunks);
  const int head = chain % heads, b = chain / heads;
  unsigned char* to = kept + record * static_cast<int64_t>(DeltaSizes::kKept);
  if (threadIdx.x == 0) {
    s.full.init(1);
    fence_barrier_init();
    s.full.arrive_expect(4 * kTile);
    for (int i = 0; i < 2; ++i) {
      load_box(s.k + i * kTile, &k, s.full, 64 * i, head, 64 * chunk, b);
    }
    for (int i = 0; i < 2; ++i) {
      load_box(s.q + i * kTile, &q, s.full, 64 * i, head, 64 * chunk, b);
    }
  }
  if (warp == 7) {
    const int64_t first = (static_cast<int64_t>(b) * tokens + 64 * chunk) * heads + head;
    const GatePair gates =
        read_gates(g ? g + first : nullptr, beta + first, heads, tokens - 64 * chunk, lane);
    write_gates(s.gates, s.blocks, reinterpret_cast<ChunkGates*>(to + 2 * kTile), gates, lane);
  }
  __syncthreads();
  s.full.wait(0);
  float sums[32];
  start_rows(sums, warp < 4 ? s.k : s.q, s.k);
  wgmma::wait<0>();
  wgmma::hold(sums);
  __syncthreads();
  if (warp < 4) {
    write_lower(sums, s.lower, s.gates, warp, lane);
    solve_unit_lower(s.lower, smem_addr(s.k), s.gates, s.blocks, 1, warp, lane);
    fence_proxy_async();
    named_sync(1, 128);
    if (threadIdx.x == 0) {
      store_bytes(to, s.k, kTile);
      commit_stores();
      wait_stores_read<0>();
    }
  } else {
    write_scores(sums, s.q, s.gates, s.blocks, scale, warp - 4, lane);
    fence_proxy_async();
    named_sync(2, 128);
    if (threadIdx.x == 128) {
      store_bytes(to + kTile, s.q, kTile);
      commit_stores();
      wait_stores_read<0>();
    }
  }
}

}  // namespace

cudaError_t gated_delta_scores(const DeltaSizes& z, const DeltaInputs& in, void* kept,
                               cudaStream_t stream) {
  CUtensorMap q, k;
  if (const cudaError_t e = encode_rows(&q, in.q, z.batch, z.tokens, z.heads, kDk)) return e;
  if (const cudaError_t e = encode_rows(&k, in.k, z.batch, z.tokens, z.heads, kDk)) return e;
  constexpr int kBytes = sizeof(Shared);
  if (const cudaError_t e = allow_shared(scores_kernel, kBytes)) return e;
  scores_kernel<<<static_cast<unsigned>(z.records()), 256, kBytes, stream>>>(
      q, k, in.g, in.beta, static_cast<unsigned char*>(kept), z.tokens, z.heads, z.chunks(),
      z.scale);
  return cudaGetLastError();
}

}  // namespace ls::kernels
