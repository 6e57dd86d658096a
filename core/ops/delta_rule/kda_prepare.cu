// Chunk-parallel part of Kimi Delta Attention: the operands of the chunk loops. One CTA a chunk and
// head, three of them a multiprocessor:
//   all          gates summed; q to q', k to k' and k 2^(G - M) (device/channel_gates.cuh), and
//                what reads and writes the states: exp(G) K, scale exp(G) Q, beta exp(G_C - G) K
//   warpgroup 0  L = strictly lower (k 2^(G - M)) k'^T diag(beta) by blocks, N = I - (I + L)^-1
//   warpgroup 1  P = lower q' k'^T diag(beta)
// Moves q, k, g in and a record out: 2,058 bytes a token and head.
#include <type_traits>

#include "core/backend/cuda/device/unit_lower.cuh"
#include "core/ops/delta_rule/kda_kernels.cuh"

namespace ls::kernels::kda {
namespace {

struct alignas(1024) Shared {
  unsigned char q[2 * kTile];  // q'; then P in its first tile
  unsigned char k[2 * kTile];  // k'
  union {
    unsigned char g[4 * kTile];  // gates
    struct {
      unsigned char read[2 * kTile];  // k 2^(G - M); then N in its first tile
      float lower[kLowerFloats];
    } after;
  };
  BlockRoots roots;
  alignas(16) float all[kDk];
  alignas(16) float beta[64];
  Mbarrier full;
};

__device__ __forceinline__ void rewrite(Shared& s, unsigned char* record, float scale, int thread) {
  const int block = thread / 64, channel = thread % 64 * 2;
  // Four tokens are loaded ahead of the stores of those before: the compiler cannot tell their
  // places apart.
  uint32_t q[2][4], k[2][4];
  const auto load = [&](int to, int part) {
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      q[to][r] = *value_pair(s.q, 16 * block + 4 * part + r, channel);
      k[to][r] = *value_pair(s.k, 16 * block + 4 * part + r, channel);
    }
  };
  load(0, 0);
  BlockSums x;
  sum_gates<1>(x, s.g, s.roots, s.all, block, channel);
  const float2 middle = x.sum[7];
  const float2 begin =
      make_float2(exp2_fast(x.before.x + middle.x), exp2_fast(x.before.y + middle.y));
  const float2 end = make_float2(exp2_fast(x.all.x - x.before.x - middle.x),
                                 exp2_fast(x.all.y - x.before.y - middle.y));
#pragma unroll
  for (int part = 0; part < 4; ++part) {
    if (part < 3) {
      load(1 - part % 2, part + 1);
    }
    const float4 betas = *reinterpret_cast<const float4*>(s.beta + 16 * block + 4 * part);
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int token = 16 * block + 4 * part + r;
      const float beta = r == 0 ? betas.x : r == 1 ? betas.y : r == 2 ? betas.z : betas.w;
      const float2 sum = x.sum[4 * part + r];
      const uint32_t qs = q[part % 2][r], ks = k[part % 2][r];
      const float dx = sum.x - middle.x, dy = sum.y - middle.y;
      const float ex = exp2_fast(dx), ey = exp2_fast(dy);
      const float qx = scale * low_bf16(qs) * ex, qy = scale * high_bf16(qs) * ey;
      const float rx = low_bf16(ks) * ex, ry = high_bf16(ks) * ey;
      const float kx = low_bf16(ks) * exp2_fast(-dx), ky = high_bf16(ks) * exp2_fast(-dy);
      *value_pair(s.q, token, channel) = pack_bf16(qx, qy);
      *value_pair(s.after.read, token, channel) = pack_bf16(rx, ry);
      *value_pair(s.k, token, channel) = pack_bf16(kx, ky);
      *value_pair(record + KeptAt::kReader, token, channel) = pack_bf16(rx * begin.x, ry * begin.y);
      *value_pair(record + KeptAt::kQuery, token, channel) = pack_bf16(qx * begin.x, qy * begin.y);
      *value_pair(record + KeptAt::kWriter, token, channel) =
          pack_bf16(beta * (kx * end.x), beta * (ky * end.y));
    }
  }
}

/// Blocks 4 t + s <= 4 t + t of L or of P, by a warp: L into its scratch, P into operands. Both run
/// the same instructions: code for each alone would not stay in the instruction cache.
template <int... kBlocks>
__device__ __forceinline__ void score_warp(uint32_t (&p)[3][4], Shared& s, bool lower, int lane) {
  const unsigned char* const queries = lower ? s.after.read : s.q;
  int i = 0;
  const auto one = [&](auto block_of) {
    constexpr int kBlock = decltype(block_of)::value, kQuery = kBlock / 4, kKey = kBlock % 4;
    ScoreSums sums;
    score_sums<2, kQuery, kKey>(sums, queries, s.k, s.roots, lane);
    float* const to = s.after.lower + lower_block(kQuery, kKey);
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const int row = (lane >> 2) + m % 2 * 8, column = m / 2 * 8 + 2 * (lane & 3);
      const float2 beta = *reinterpret_cast<const float2*>(s.beta + 16 * kKey + column);
      const float u = beta.x * sums.value(m, 0), v = beta.y * sums.value(m, 1);
      if (lower) {
        *reinterpret_cast<float2*>(to + lower_at(row, column)) = make_float2(u, v);
      }
      constexpr bool kWhole = kKey < kQuery;
      p[i][m] = pack_bf16(kWhole || column <= row ? u : 0.f, kWhole || column + 1 <= row ? v : 0.f);
    }
    ++i;
  };
  (one(std::integral_constant<int, kBlocks>{}), ...);
}

template <bool kCuts>
__global__ void __launch_bounds__(256, 3)
    kda_prepare_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                       const __grid_constant__ CUtensorMap g, const bf16* beta, unsigned char* kept,
                       const __grid_constant__ Layout layout, float scale) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char raw[];
  Shared& s = *reinterpret_cast<Shared*>(raw);
  const int warp = warp_index(), lane = lane_index();
  // Heads of the same tokens follow each other: their rows do in memory.
  int64_t i = blockIdx.x;
  const int heads = layout.heads, chunks = layout.chunks, tokens = layout.tokens;
  const int head = static_cast<int>(i % heads), key = head / layout.group;
  i /= heads;
  const int chunk = static_cast<int>(i % chunks), b = static_cast<int>(i / chunks);
  int first = 64 * chunk, end = tokens;  // tokens from `end` on are of others
  if constexpr (kCuts) {
    first = layout.places[chunk].x;
    end = first + layout.places[chunk].y;
    if (end == first) {
      return;
    }
  }
  unsigned char* const to = kept + ((static_cast<int64_t>(b) * heads + head) * chunks + chunk) *
                                       static_cast<int64_t>(KdaSizes::kKept);
  if (threadIdx.x == 0) {
    s.full.init(1);
    fence_barrier_init();
    s.full.arrive_expect(8 * kTile);
    for (int j = 0; j < 4; ++j) {
      load_box(s.g + j * kTile, &g, s.full, 32 * j, head, first, b);
    }
    for (int j = 0; j < 2; ++j) {
      load_box(s.q + j * kTile, &q, s.full, 64 * j, key, first, b);
      load_box(s.k + j * kTile, &k, s.full, 64 * j, key, first, b);
    }
  }
  if (threadIdx.x < 64) {
    const int t = first + static_cast<int>(threadIdx.x);
    s.beta[threadIdx.x] = safe_beta(
        t < end ? __bfloat162float(beta[(static_cast<int64_t>(b) * tokens + t) * heads + head])
                : 0.f);
  }
  __syncthreads();
  s.full.wait(0);
  if (kCuts && end - first < 64) {
    clear_rows(s.q, 4, end - first, static_cast<int>(threadIdx.x), 256);  // and k
    clear_rows(s.g, 4, end - first, static_cast<int>(threadIdx.x), 256);
    __syncthreads();
  }
  rewrite(s, to, scale, static_cast<int>(threadIdx.x));
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x < kDk) {
    reinterpret_cast<float*>(to + KeptAt::kAll)[threadIdx.x] = s.all[threadIdx.x];
  }
  // Dealt out evenly: off the diagonal a block costs half as much again. Then who zeroes what.
  uint32_t p[3][4];
  uint32_t blocks, zeros;  // four bits each
  switch (warp % 4) {
    case 0:
      score_warp<4, 8>(p, s, warp < 4, lane);
      blocks = 0x84, zeros = 0x12;
      break;
    case 1:
      score_warp<9, 12>(p, s, warp < 4, lane);
      blocks = 0xc9, zeros = 0x36;
      break;
    case 2:
      score_warp<13, 0, 5>(p, s, warp < 4, lane);
      blocks = 0x50d, zeros = 0x77;
      break;
    default:
      score_warp<14, 10, 15>(p, s, warp < 4, lane);
      blocks = 0xfae, zeros = 0xbb;
  }
  if (warp < 4) {
    named_sync(3, 128);
    solve_unit_lower<false>(s.after.lower, smem_addr(s.after.read), nullptr, nullptr, 3, warp,
                            lane);
    fence_proxy_async();
    named_sync(3, 128);
    if (threadIdx.x == 0) {
      store_bytes(to + KeptAt::kSolve, s.after.read, kTile);
      commit_stores();
      wait_stores_read<0>();
    }
  } else {
    named_sync(2, 128);  // q' is read, P takes its place
    const auto store = [&](uint32_t block, const uint32_t(&x)[4]) {
      const int row = static_cast<int>(block >> 2 & 3) * 16;
      store_matrices(block_address(smem_addr(s.q), row, static_cast<int>(block & 3) * 16, lane),
                     x[0], x[1], x[2], x[3]);
    };
    store(blocks, p[0]);
    store(blocks >> 4, p[1]);
    if (warp % 4 > 1) {
      store(blocks >> 8, p[2]);
    }
    store(zeros, {0, 0, 0, 0});
    store(zeros >> 4, {0, 0, 0, 0});
    fence_proxy_async();
    named_sync(2, 128);
    if (threadIdx.x == 128) {
      store_bytes(to + KeptAt::kScores, s.q, kTile);
      commit_stores();
      wait_stores_read<0>();
    }
  }
#endif
}

}  // namespace

cudaError_t kda_prepare(const KdaSizes& z, const KdaInputs& in, void* kept, cudaStream_t stream) {
  CUtensorMap q, k, g;
  if (const cudaError_t e = encode_rows(&q, in.q, z.batch, z.tokens, z.keys(), kDk)) return e;
  if (const cudaError_t e = encode_rows(&k, in.k, z.batch, z.tokens, z.keys(), kDk)) return e;
  if (const cudaError_t e = encode_gates(&g, in.g, z.batch, z.tokens, z.heads, kDk)) return e;
  const Layout layout = layout_in(z, in, kept);
  if (in.offsets) {
    if (const cudaError_t e = find_places(layout, z.documents, stream)) return e;
  }
  constexpr int kBytes = sizeof(Shared);
  static_assert(3 * (kBytes + 1024) <= 228 * 1024);
  const auto kernel = in.offsets ? &kda_prepare_kernel<true> : &kda_prepare_kernel<false>;
  if (const cudaError_t e = allow_shared(kernel, kBytes)) return e;
  kernel<<<static_cast<unsigned>(z.records()), 256, kBytes, stream>>>(
      q, k, g, in.beta, static_cast<unsigned char*>(kept), layout, z.scale);
  return cudaGetLastError();
}

}  // namespace ls::kernels::kda
