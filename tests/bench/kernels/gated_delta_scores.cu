// Chunk-parallel part of the gated delta rule: gates, N (the inverse) and P of every chunk.
// One CTA a chunk and head, two warpgroups: the first K K^T and the solve, the second Q K^T.
// Moves 512 bytes of q, k in and 272 of the record out per token and head.
#include "gated_delta_scores.cuh"

namespace ls::kernels {
namespace {

using namespace ls::cuda;

struct alignas(1024) Shared {
  unsigned char k[2 * kTile], q[2 * kTile], n[kTile], p[kTile];
  ChunkGates gates;
  float lower[kLowerFloats];
  Mbarrier full;
};

__global__ void __launch_bounds__(256, 2)
    scores_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                  const float* g, const bf16* beta, unsigned char* kept, int tokens, int heads,
                  int chunks, float scale) {
  extern __shared__ __align__(1024) unsigned char raw[];
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t record = blockIdx.x;
  const int chunk = static_cast<int>(record % chunks), chain = static_cast<int>(record / chunks);
  const int head = chain % heads, b = chain / heads;
  if (threadIdx.x == 0) {
    s.full.init(1);
    fence_barrier_init();
    s.full.arrive_expect(4 * kTile);
    for (int i = 0; i < 2; ++i) {
      load_box(s.k + i * kTile, &k, s.full, 64 * i, head, 64 * chunk, b);
      load_box(s.q + i * kTile, &q, s.full, 64 * i, head, 64 * chunk, b);
    }
  }
  if (warp == 4) {
    const int64_t first = (static_cast<int64_t>(b) * tokens + 64 * chunk) * heads + head;
    load_gates(s.gates, g ? g + first : nullptr, beta + first, heads, tokens - 64 * chunk, lane);
  }
  __syncthreads();
  s.full.wait(0);
  if (warp < 4) {
    write_solve(s.n, s.k, s.lower, s.gates, 1, warp, lane);
  } else {
    write_scores(s.p, s.q, s.k, s.gates, scale, warp - 4, lane);
  }
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned char* to = kept + record * static_cast<int64_t>(DeltaSizes::kKept);
    store_bytes(to, s.n, 2 * kTile + sizeof(ChunkGates));
    commit_stores();
    wait_stores_read<0>();
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
