// Chunk-parallel part of the gated delta rule: gates, N (the inverse) and P of every chunk.
// One CTA a chunk and value head, two warpgroups: the first K K^T and the solve, the second Q K^T.
// Moves 4 Dk bytes of q, k in and 272 of the record out per token and head.
#include "core/ops/delta_rule/gated_delta_scores.cuh"

namespace ls::kernels::gated_delta {
namespace {

using namespace ls::cuda;

/// N and P take the places of k and q, so that more CTAs fit.
template <int kDk>
struct alignas(1024) Shared {
  static constexpr int kTiles = kDk / 64;
  static constexpr bool kRoom = kTiles > 2;  // for the scratch behind N
  unsigned char k[kTiles * kTile], q[kTiles * kTile];
  float scratch[kRoom ? 4 : kLowerFloats];
  ChunkGates gates;
  BlockGates blocks;
  Mbarrier full;
  __device__ float* lower() { return kRoom ? reinterpret_cast<float*>(k + kTile) : scratch; }
};
static_assert(kLowerFloats * sizeof(float) <= 3 * kTile);

template <int kDk>
__global__ void __launch_bounds__(256, kDk > 128 ? 3 : 4)
    scores_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                  const float* g, const bf16* beta, unsigned char* kept, const Layout layout,
                  float scale) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char raw[];
  using Memory = Shared<kDk>;
  Memory& s = *reinterpret_cast<Memory*>(raw);
  const int warp = warp_index(), lane = lane_index();
  const ChunkPlace at(layout, blockIdx.x);
  if (at.valid == 0) {
    return;
  }
  unsigned char* to = kept + at.record * static_cast<int64_t>(DeltaSizes::kKept);
  if (threadIdx.x == 0) {
    s.full.init(1);
    fence_barrier_init();
    s.full.arrive_expect(2 * Memory::kTiles * kTile);
    for (int i = 0; i < Memory::kTiles; ++i) {
      load_box(s.k + i * kTile, &k, s.full, 64 * i, at.key_head, at.first, at.row);
    }
    for (int i = 0; i < Memory::kTiles; ++i) {
      load_box(s.q + i * kTile, &q, s.full, 64 * i, at.key_head, at.first, at.row);
    }
  }
  if (warp == 7) {
    const int64_t first =
        (static_cast<int64_t>(at.row) * layout.tokens + at.first) * layout.heads + at.head;
    const GatePair gates =
        read_gates(g ? g + first : nullptr, beta + first, layout.heads, at.valid, lane);
    write_gates(s.gates, s.blocks, reinterpret_cast<ChunkGates*>(to + 2 * kTile), gates, lane);
  }
  __syncthreads();
  s.full.wait(0);
  if (at.cut) {
    clear_rows(s.k, 2 * Memory::kTiles, at.valid, static_cast<int>(threadIdx.x), 256);
    fence_proxy_async();
    __syncthreads();
  }
  float sums[32];
  start_rows<kDk>(sums, warp < 4 ? s.k : s.q, s.k);
  wgmma::wait<0>();
  wgmma::hold(sums);
  __syncthreads();
  if (warp < 4) {
    write_lower(sums, s.lower(), s.gates, warp, lane);
    solve_unit_lower<true>(s.lower(), smem_addr(s.k), &s.gates, &s.blocks, 1, warp, lane);
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
#endif
}

}  // namespace

cudaError_t gated_delta_scores(const DeltaSizes& z, const DeltaInputs& in, void* kept,
                               cudaStream_t stream) {
  CUtensorMap q, k;
  if (const cudaError_t e = encode_rows(&q, in.q, z.batch, z.tokens, z.key_heads, z.dk)) return e;
  if (const cudaError_t e = encode_rows(&k, in.k, z.batch, z.tokens, z.key_heads, z.dk)) return e;
  const Layout layout = layout_of(z, in, kept);
  if (in.offsets) {
    if (const cudaError_t e = find_places(layout, z.documents, stream)) return e;
  }
  return with_width(z, [&](auto width) {
    constexpr int kDk = decltype(width)::kValue, kBytes = sizeof(Shared<kDk>);
    const auto kernel = scores_kernel<kDk>;
    if (const cudaError_t e = allow_shared(kernel, kBytes)) return e;
    kernel<<<static_cast<unsigned>(z.records()), 256, kBytes, stream>>>(
        q, k, in.g, in.beta, static_cast<unsigned char*>(kept), layout, z.scale);
    return cudaGetLastError();
  });
}

}  // namespace ls::kernels::gated_delta
