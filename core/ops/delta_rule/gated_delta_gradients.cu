// Chunk-parallel part of the gated delta rule's backward: from the states before each chunk, their
// gradients after it, X and dV, the gradients of q, k, beta and g. Persistent CTAs, one chunk and
// head at a time, 64 value columns after 64:
//   warpgroup 0  warp 0 brings tiles (a ring of two, q and k double); warps 1 to 3 make
//                dbeta = dV . X / beta and <S, dS'>
//   warpgroup 1  dP = scale tril(dO W^T * D),  dQ = scale exp(G) dO S^T + dP K
//   warpgroup 2  dM = -tril_-1(dV W^T * D), dK = [dM K - exp(G) dV S^T]
//                                                + [dP^T Q + dM^T K + exp(G_C - G) W dS'^T]
// At Dk 256 a CTA makes half of the key columns: what both halves load comes from the L2 cache, the
// 64x64 products of values are made twice, and dg is the sum of two. Gradients of shared q and k
// are made for each value head and added up at the end.
// Bound by memory: about 2.8 KB a token and head at Dk = Dv = 128, of which the states are a third.
#include <algorithm>

#include "core/ops/delta_rule/gated_delta_kernels.cuh"

namespace ls::kernels::gated_delta {
namespace {

using namespace ls::cuda;
using wgmma::Depth;

constexpr int kAuxWarps = 3;
constexpr int kQueriesOnly = 1, kKeysOnly = 2;  // named barriers

/// Key columns of a CTA, and how many CTAs share a chunk.
template <int kDk>
inline constexpr int kWidth = kDk < 128 ? kDk : 128;
template <int kDk>
inline constexpr int kHalves = kDk / kWidth<kDk>;

/// Places for slices and for tokens. At Dk 256 a turn has many slices, so that q and k, which are
/// needed behind them, can come late.
template <int kDk>
inline constexpr int kSlots = kDk > 128 ? 3 : 2;
template <int kDk>
inline constexpr int kTokenSlots = kDk > 128 ? 1 : 2;

template <int kDk>
struct alignas(1024) Slice {
  static constexpr int kBytes = kWidth<kDk> / 64 * kTile;
  unsigned char s[kBytes], ds[kBytes], go[kTile], x[kTile], dv[kTile];
};
struct Item : ChunkPlace {
  int half;
};
/// By the producer; the last one has no valid tokens.
struct ItemPlace {
  alignas(alignof(Item)) int words[sizeof(Item) / sizeof(int)];
  __device__ Item& get() { return *reinterpret_cast<Item*>(words); }
};
template <int kDk>
struct alignas(1024) Tokens {
  static constexpr int kTiles = kWidth<kDk> / 64;
  unsigned char q[kTiles * kTile], k[kTiles * kTile];
  ChunkGates gates;
};
struct Sums {
  float q[64], k[64];      // q . dq and k . (dk reader - dk writer) by token
  float late[4];           // k . W dS'^T, by warp
  float state[kAuxWarps];  // <S, dS'>, by warp
};
template <int kDk>
struct alignas(1024) Shared {
  Slice<kDk> slice[kSlots<kDk>];
  Tokens<kDk> tokens[kTokenSlots<kDk>];
  unsigned char dp[kTile], dm[kTile];
  Sums sums[2];
  ItemPlace items[2];  // of a turn, and free again with its tokens
  Mbarrier slice_full[kSlots<kDk>], slice_free[kSlots<kDk>];
  Mbarrier tokens_full[kTokenSlots<kDk>], tokens_free[kTokenSlots<kDk>];
  Mbarrier item_full[2], aux_done[2];
  Mbarrier scores_ready, products_done;  // dp; q and k have been used
  Mbarrier cleared;                      // q and k behind the last token of a document
};

struct Arguments {
  const unsigned char* kept;
  Records states, gradients;
  bf16 *dq, *dk;  // of value heads
  bf16* dbeta;
  float* dg;
  int64_t items, dg_half;  // chunks times halves; elements of dg
  Layout layout;
  int dk_size, slices;
  float scale;
};

/// Sum over the four lanes that share a row.
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// Row sums of a tile pair of bf16 times sums [64][2 kSums], for rows `row` and `row` + 8.
template <int kSums>
__device__ __forceinline__ float2 row_dots(const float (&d)[kSums], const unsigned char* tiles,
                                           int row, int pair) {
  float2 dot = make_float2(0.f, 0.f);
#pragma unroll
  for (int j = 0; j < kSums / 4; ++j) {
    const unsigned char* tile = tiles + j / 8 * kTile;
    const int column = 8 * (j % 8) + pair;
    const auto a = *reinterpret_cast<const uint32_t*>(tile + tile_offset(row, column));
    const auto b = *reinterpret_cast<const uint32_t*>(tile + tile_offset(row + 8, column));
    dot.x += d[4 * j] * low_bf16(a) + d[4 * j + 1] * high_bf16(a);
    dot.y += d[4 * j + 2] * low_bf16(b) + d[4 * j + 3] * high_bf16(b);
  }
  return dot;
}

template <int kSums>
__device__ __forceinline__ void store_rows(const float (&d)[kSums], unsigned char* tiles, int warp,
                                           int lane) {
  uint32_t a[kSums / 8][4];
  as_operand<kSums / 8>(a, d);
  store_operands(tiles, a, warp, lane);
}
/// dQ or dK of a chunk goes out, from its tiles: a box each, or as rows by the warp where a box
/// would reach into the next document. All of one warp; its first lane waits for the boxes later.
template <int kDk>
__device__ __forceinline__ void store_out(const CUtensorMap& map, bf16* rows,
                                          const unsigned char* tiles, const Item& at,
                                          const Arguments& args, int lane) {
  constexpr int kTiles = Tokens<kDk>::kTiles;
  for (int i = 0; i < kTiles; ++i) {
    const int column = 64 * (kTiles * at.half + i);
    if (at.cut) {
      const int64_t stride = static_cast<int64_t>(args.layout.heads) * args.dk_size;
      copy_rows(rows + at.first * stride + static_cast<int64_t>(at.head) * args.dk_size + column,
                stride, tiles + i * kTile, at.valid, args.dk_size - column, lane, 32);
    } else if (lane == 0 && column < args.dk_size) {
      store_box(&map, tiles + i * kTile, column, at.head, at.first, at.row);
    }
  }
  __syncwarp();
  if (lane == 0) {
    commit_stores();
  }
}

/// Waits for slice `step`.
template <int kDk>
__device__ __forceinline__ Slice<kDk>& wait_slice(Shared<kDk>& s, int step) {
  s.slice_full[step % kSlots<kDk>].wait((step / kSlots<kDk>)&1);
  return s.slice[step % kSlots<kDk>];
}
template <int kDk>
__device__ __forceinline__ void free_slice(Shared<kDk>& s, int step, int lane) {
  arrive_warp(s.slice_free[step % kSlots<kDk>], lane);
}
template <int kDk>
__device__ __forceinline__ Tokens<kDk>& tokens_of(Shared<kDk>& s, int turn) {
  return s.tokens[turn % kTokenSlots<kDk>];
}
template <int kDk>
__device__ __forceinline__ void wait_tokens(Shared<kDk>& s, int turn) {
  s.tokens_full[turn % kTokenSlots<kDk>].wait((turn / kTokenSlots<kDk>)&1);
}
template <int kDk>
__device__ __forceinline__ void free_tokens(Shared<kDk>& s, int turn) {
  s.tokens_free[turn % kTokenSlots<kDk>].arrive();
}
template <int kDk>
const __device__ __forceinline__ Item& wait_item(Shared<kDk>& s, int turn) {
  s.item_full[turn % 2].wait((turn / 2) & 1);
  return s.items[turn % 2].get();
}

template <int kDk>
__device__ __forceinline__ void bring_tokens(Shared<kDk>& s, const CUtensorMap& q,
                                             const CUtensorMap& k, const Arguments& args,
                                             const Item& at, int turn) {
  constexpr int kTiles = Tokens<kDk>::kTiles;
  Tokens<kDk>& z = tokens_of(s, turn);
  Mbarrier& full = s.tokens_full[turn % kTokenSlots<kDk>];
  full.arrive_expect(2 * kTiles * kTile + sizeof(ChunkGates));
  load_bytes(&z.gates, args.kept + at.record * DeltaSizes::kKept + 2 * kTile, sizeof(ChunkGates),
             full);
  for (int i = 0; i < kTiles; ++i) {
    const int column = 64 * (kTiles * at.half + i);
    load_box(z.q + i * kTile, &q, full, column, at.key_head, at.first, at.row);
    load_box(z.k + i * kTile, &k, full, column, at.key_head, at.first, at.row);
  }
}

template <int kDk>
__device__ __forceinline__ void produce(Shared<kDk>& s, const CUtensorMap& q, const CUtensorMap& k,
                                        const CUtensorMap& go, const CUtensorMap& dv,
                                        const Arguments& args) {
  constexpr int kTokens = kTokenSlots<kDk>;
  const auto wait_free = [&](int turn) {  // for the tokens of this turn
    if (turn >= kTokens) {
      s.tokens_free[turn % kTokens].wait((turn / kTokens - 1) & 1);
    }
  };
  const uint64_t once = read_once_policy();
  int step = 0, turn = 0;
  for (int64_t item = blockIdx.x; item < args.items; item += gridDim.x) {
    const Item at{ChunkPlace(args.layout, item / kHalves<kDk>),
                  static_cast<int>(item % kHalves<kDk>)};
    if (at.valid == 0) {
      continue;
    }
    const int64_t r = at.record;
    // With two places tokens come first; with one behind the first slices, without which the turn
    // before would not give the place away.
    const int ahead = kTokens > 1 ? 0 : min(kSlots<kDk>, args.slices);
    if (kTokens > 1) {
      wait_free(turn);
    }
    s.items[turn % 2].get() = at;
    s.item_full[turn % 2].arrive();
    for (int i = 0; i <= args.slices; ++i) {
      if (i == ahead) {
        if (kTokens == 1) {
          wait_free(turn);
        }
        bring_tokens(s, q, k, args, at, turn);
      }
      if (i == args.slices) {
        break;
      }
      Slice<kDk>& y = s.slice[step % kSlots<kDk>];
      Mbarrier& full = s.slice_full[step % kSlots<kDk>];
      if (step >= kSlots<kDk>) {
        s.slice_free[step % kSlots<kDk>].wait((step / kSlots<kDk> - 1) & 1);
      }
      constexpr int kBytes = Slice<kDk>::kBytes;
      full.arrive_expect(2 * kBytes + 3 * kTile);
      load_box(y.go, &go, full, 64 * i, at.head, at.first, at.row);
      load_bytes(y.x, args.states.value(r, i), kTile, full);
      load_box(y.dv, &dv, full, 64 * i, at.head, at.first, at.row);
      load_bytes(y.s, args.states.state(r, i) + at.half * kBytes, kBytes, full, once);
      load_bytes(y.ds, args.gradients.state(r, i) + at.half * kBytes, kBytes, full, once);
      ++step;
    }
    ++turn;
  }
  if (kTokens > 1) {
    wait_free(turn);
  }
  s.items[turn % 2].get().valid = 0;
  s.item_full[turn % 2].arrive();
}

/// dbeta, <S, dS'>: `id` 0 to 95.
template <int kDk>
__device__ __forceinline__ void elementwise(Shared<kDk>& s, const Arguments& args, int id) {
  const int lane = id % 32;
  constexpr int kThreads = 32 * kAuxWarps, kRows = kThreads / 8;
  int step = 0;
  for (int turn = 0;; ++turn) {
    const Tokens<kDk>& z = tokens_of(s, turn);
    const Item& at = wait_item(s, turn);
    if (at.valid == 0) {
      break;
    }
    const int rows = at.half == 0 ? at.valid : 0;  // of dbeta
    float dbeta[(64 + kRows - 1) / kRows] = {}, inner = 0;
    for (int i = 0; i < args.slices; ++i, ++step) {
      const Slice<kDk>& y = wait_slice(s, step);
#pragma unroll
      for (int m = 0; m < (64 + kRows - 1) / kRows; ++m) {
        const int row = m * kRows + id / 8;
        if (row < rows) {
          const uint32_t offset = tile_offset(row, 8 * (id % 8));
          dbeta[m] += dot8(*reinterpret_cast<const uint4*>(y.dv + offset),
                           *reinterpret_cast<const uint4*>(y.x + offset));
        }
      }
      for (int m = id; m < Slice<kDk>::kBytes / 16; m += kThreads) {
        inner +=
            dot8(reinterpret_cast<const uint4*>(y.s)[m], reinterpret_cast<const uint4*>(y.ds)[m]);
      }
      // What was read must have been used before the place is free: a load can be late.
      asm volatile("" : "+f"(inner)::"memory");
      wgmma::hold(dbeta);
      free_slice(s, step, lane);
    }
    wait_tokens(s, turn);
#pragma unroll
    for (int m = 0; m < (64 + kRows - 1) / kRows; ++m) {
      const int row = m * kRows + id / 8;
      float sum = dbeta[m];
#pragma unroll
      for (int step8 = 1; step8 < 8; step8 *= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, step8);
      }
      if (row < rows && id % 8 == 0) {
        args.dbeta[(static_cast<int64_t>(at.row) * args.layout.tokens + at.first + row) *
                       args.layout.heads +
                   at.head] = __float2bfloat16(sum / z.gates.beta[row]);
      }
    }
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) {
      inner += __shfl_xor_sync(0xffffffffu, inner, lanes);
    }
    if (lane == 0) {
      s.sums[turn % 2].state[id / 32] = inner;
    }
    arrive_warp(s.aux_done[turn % 2], lane);
    arrive_warp(s.tokens_free[turn % kTokenSlots<kDk>], lane);
  }
}

template <int kDk>
__device__ __forceinline__ void query_side(Shared<kDk>& s, const CUtensorMap& dq,
                                           const Arguments& args, int warp, int lane) {
  constexpr int kWide = kWidth<kDk>, kSums = kWide / 2;
  const int pair = 2 * (lane & 3), row = 16 * warp + (lane >> 2);
  const bool leader = warp == 0 && lane == 0;
  int step = 0, cuts = 0;
  for (int turn = 0;; ++turn) {
    Tokens<kDk>& z = tokens_of(s, turn);
    const Item& at = wait_item(s, turn);
    if (at.valid == 0) {
      break;
    }
    float p[32], d[kSums];
    for (int i = 0; i < args.slices; ++i, ++step) {
      Slice<kDk>& y = wait_slice(s, step);
      if (at.cut) {
        clear_rows(y.go, 1, at.valid, 32 * warp + lane, 128);
        fence_proxy_async();
        named_sync(kQueriesOnly, 128);
      }
      const uint64_t go = wgmma::rows(smem_addr(y.go)), x = wgmma::rows(smem_addr(y.x));
      const uint64_t state = wgmma::columns(smem_addr(y.s), kTile);
      wgmma::hold(p);
      wgmma::hold(d);
      wgmma::fence_sums();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        wgmma::multiply<64, Depth::kRows, Depth::kRows>(p, wgmma::step_rows(go, j),
                                                        wgmma::step_rows(x, j), i > 0 || j > 0);
        wgmma::multiply<kWide, Depth::kRows, Depth::kColumns>(
            d, wgmma::step_rows(go, j), wgmma::step_columns(state, j), i > 0 || j > 0);
      }
      wgmma::commit();
      wgmma::wait<0>();
      wgmma::hold(p);
      wgmma::hold(d);
      free_slice(s, step, lane);
      if (leader && turn > 0 && i == (kTokenSlots < kDk >> 1 ? args.slices - 1 : 0)) {
        wait_stores_read<0>();  // dQ of the turn before
        free_tokens(s, turn - 1);
      }
      __syncwarp();
    }
    wait_tokens(s, turn);
    if (at.cut) {
      clear_rows(z.q, Tokens<kDk>::kTiles, at.valid, 32 * warp + lane, 128);
      fence_proxy_async();
      arrive_warp(s.cleared, lane);
      s.cleared.wait(cuts++ & 1);
    }
    const float g0 = z.gates.sum[row], g1 = z.gates.sum[row + 8];
    uint32_t a[4][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int column = 8 * j + pair;
      const float2 g = *reinterpret_cast<const float2*>(z.gates.sum + column);
      const float2 beta = *reinterpret_cast<const float2*>(z.gates.beta + column);
      const float b0 = args.scale * beta.x, b1 = args.scale * beta.y;
      const float x0 = column <= row ? b0 * p[4 * j] * exp2_fast(g0 - g.x) : 0.f;
      const float x1 = column < row ? b1 * p[4 * j + 1] * exp2_fast(g0 - g.y) : 0.f;
      const float x2 = column <= row + 8 ? b0 * p[4 * j + 2] * exp2_fast(g1 - g.x) : 0.f;
      const float x3 = column < row + 8 ? b1 * p[4 * j + 3] * exp2_fast(g1 - g.y) : 0.f;
      a[j / 2][2 * (j % 2)] = pack_bf16(x0, x1);
      a[j / 2][2 * (j % 2) + 1] = pack_bf16(x2, x3);
    }
    store_operands(s.dp, a, warp, lane);
    fence_proxy_async();
    arrive_warp(s.scores_ready, lane);
    const float f0 = args.scale * z.gates.begin[row], f1 = args.scale * z.gates.begin[row + 8];
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      d[4 * j] *= f0;
      d[4 * j + 1] *= f0;
      d[4 * j + 2] *= f1;
      d[4 * j + 3] *= f1;
    }
    const uint64_t keys = wgmma::columns(smem_addr(z.k), kTile);
    wgmma::hold(d);
    wgmma::hold(a);
    wgmma::fence_sums();
    wgmma::multiply_steps<Depth::kColumns>(d, a, keys, true);
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(d);
    Sums& sums = s.sums[turn % 2];
    const float2 dot = row_dots(d, z.q, row, pair);
    const float dot0 = row_sum(dot.x), dot1 = row_sum(dot.y);
    if ((lane & 3) == 0) {
      sums.q[row] = dot0;
      sums.q[row + 8] = dot1;
    }
    arrive_warp(s.products_done, lane);
    s.products_done.wait(turn & 1);
    store_rows(d, z.q, warp, lane);
    fence_proxy_async();
    if (warp == 0 && args.dg) {
      s.aux_done[turn % 2].wait((turn / 2) & 1);
      // Reverse running sum; exp(G_C) S' . dS' enters at the last token.
      const int t = 2 * lane;
      float inner = sums.state[0] + sums.state[1] + sums.state[2];
      inner =
          inner * z.gates.begin[63] + (sums.late[0] + sums.late[1]) + (sums.late[2] + sums.late[3]);
      const float second = sums.q[t + 1] + sums.k[t + 1] + (lane == 31 ? inner : 0.f);
      const float first = sums.q[t] + sums.k[t] + second;
      float sum = first;
#pragma unroll
      for (int n = 1; n < 32; n *= 2) {
        const float after = __shfl_down_sync(0xffffffffu, sum, n);
        sum += lane + n < 32 ? after : 0.f;
      }
      const float after = sum - first;
      float* dg = args.dg + at.half * args.dg_half;
      const int64_t token =
          (static_cast<int64_t>(at.row) * args.layout.tokens + at.first + t) * args.layout.heads +
          at.head;
      if (t < at.valid) {
        dg[token] = sum;
      }
      if (t + 1 < at.valid) {
        dg[token + args.layout.heads] = after + second;
      }
    }
    named_sync(kQueriesOnly, 128);
    if (warp == 0) {
      store_out<kDk>(dq, args.dq, z.q, at, args, lane);
    }
  }
  if (leader) {
    wait_stores<0>();
  }
}

template <int kDk>
__device__ __forceinline__ void key_side(Shared<kDk>& s, const CUtensorMap& dk,
                                         const Arguments& args, int warp, int lane) {
  constexpr int kWide = kWidth<kDk>, kSums = kWide / 2;
  const int pair = 2 * (lane & 3), row = 16 * warp + (lane >> 2);
  const bool leader = warp == 0 && lane == 0;
  int step = 0, cuts = 0;
  for (int turn = 0;; ++turn) {
    Tokens<kDk>& z = tokens_of(s, turn);
    const Item& at = wait_item(s, turn);
    if (at.valid == 0) {
      break;
    }
    float p[32], reader[kSums], writer[kSums];
    for (int i = 0; i < args.slices; ++i, ++step) {
      Slice<kDk>& y = wait_slice(s, step);
      if (at.cut) {
        clear_rows(y.dv, 1, at.valid, 32 * warp + lane, 128);
        fence_proxy_async();
        named_sync(kKeysOnly, 128);
      }
      const uint64_t e = wgmma::rows(smem_addr(y.dv)), x = wgmma::rows(smem_addr(y.x));
      const uint64_t state = wgmma::columns(smem_addr(y.s), kTile);
      const uint64_t gradient = wgmma::columns(smem_addr(y.ds), kTile);
      wgmma::hold(p);
      wgmma::hold(reader);
      wgmma::hold(writer);
      wgmma::fence_sums();
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool add = i > 0 || j > 0;
        wgmma::multiply<64, Depth::kRows, Depth::kRows>(p, wgmma::step_rows(e, j),
                                                        wgmma::step_rows(x, j), add);
        wgmma::multiply<kWide, Depth::kRows, Depth::kColumns>(reader, wgmma::step_rows(e, j),
                                                              wgmma::step_columns(state, j), add);
        wgmma::multiply<kWide, Depth::kRows, Depth::kColumns>(
            writer, wgmma::step_rows(x, j), wgmma::step_columns(gradient, j), add);
      }
      wgmma::commit();
      wgmma::wait<0>();
      wgmma::hold(p);
      wgmma::hold(reader);
      wgmma::hold(writer);
      free_slice(s, step, lane);
      if (leader && turn > 0 && i == (kTokenSlots < kDk >> 1 ? args.slices - 1 : 0)) {
        wait_stores_read<0>();  // dK of the turn before
        free_tokens(s, turn - 1);
      }
      __syncwarp();
    }
    wait_tokens(s, turn);
    if (at.cut) {
      clear_rows(z.k, Tokens<kDk>::kTiles, at.valid, 32 * warp + lane, 128);
      fence_proxy_async();
      arrive_warp(s.cleared, lane);
      s.cleared.wait(cuts++ & 1);
    }
    const float g0 = z.gates.sum[row], g1 = z.gates.sum[row + 8];
    uint32_t a[4][4];
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const int column = 8 * j + pair;
      const float2 g = *reinterpret_cast<const float2*>(z.gates.sum + column);
      const float2 beta = *reinterpret_cast<const float2*>(z.gates.beta + column);
      const float x0 = column < row ? beta.x * p[4 * j] * exp2_fast(g0 - g.x) : 0.f;
      const float x1 = column + 1 < row ? beta.y * p[4 * j + 1] * exp2_fast(g0 - g.y) : 0.f;
      const float x2 = column < row + 8 ? beta.x * p[4 * j + 2] * exp2_fast(g1 - g.x) : 0.f;
      const float x3 = column + 1 < row + 8 ? beta.y * p[4 * j + 3] * exp2_fast(g1 - g.y) : 0.f;
      a[j / 2][2 * (j % 2)] = pack_bf16(-x0, -x1);
      a[j / 2][2 * (j % 2) + 1] = pack_bf16(-x2, -x3);
    }
    store_operands(s.dm, a, warp, lane);
    const float r0 = -z.gates.begin[row], r1 = -z.gates.begin[row + 8];
    const float w0 = z.gates.late[row], w1 = z.gates.late[row + 8];
#pragma unroll
    for (int j = 0; j < kSums / 4; ++j) {
      reader[4 * j] *= r0;
      reader[4 * j + 1] *= r0;
      reader[4 * j + 2] *= r1;
      reader[4 * j + 3] *= r1;
      writer[4 * j] *= w0;
      writer[4 * j + 1] *= w0;
      writer[4 * j + 2] *= w1;
      writer[4 * j + 3] *= w1;
    }
    Sums& sums = s.sums[turn % 2];
    {
      const float2 late = row_dots(writer, z.k, row, pair);
      float sum = late.x + late.y;
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) {
        sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
      }
      if (lane == 0) {
        sums.late[warp] = sum;
      }
    }
    fence_proxy_async();
    named_sync(kKeysOnly, 128);  // dm
    s.scores_ready.wait(turn & 1);
    const uint64_t keys = wgmma::columns(smem_addr(z.k), kTile);
    const uint64_t queries = wgmma::columns(smem_addr(z.q), kTile);
    const uint64_t dp = wgmma::columns(smem_addr(s.dp)), dm = wgmma::columns(smem_addr(s.dm));
    wgmma::hold(reader);
    wgmma::hold(writer);
    wgmma::hold(a);
    wgmma::fence_sums();
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      wgmma::multiply<kWide, Depth::kColumns>(reader, a[j], wgmma::step_columns(keys, j), true);
      wgmma::multiply<kWide, Depth::kColumns, Depth::kColumns>(
          writer, wgmma::step_columns(dp, j), wgmma::step_columns(queries, j), true);
      wgmma::multiply<kWide, Depth::kColumns, Depth::kColumns>(writer, wgmma::step_columns(dm, j),
                                                               wgmma::step_columns(keys, j), true);
    }
    wgmma::commit();
    wgmma::wait<0>();
    wgmma::hold(reader);
    wgmma::hold(writer);
    const float2 read = row_dots(reader, z.k, row, pair), wrote = row_dots(writer, z.k, row, pair);
    const float dot0 = row_sum(read.x - wrote.x), dot1 = row_sum(read.y - wrote.y);
    if ((lane & 3) == 0) {
      sums.k[row] = dot0;
      sums.k[row + 8] = dot1;
    }
    arrive_warp(s.products_done, lane);
    s.products_done.wait(turn & 1);
#pragma unroll
    for (int j = 0; j < kSums; ++j) {
      reader[j] += writer[j];
    }
    store_rows(reader, z.k, warp, lane);
    fence_proxy_async();
    named_sync(kKeysOnly, 128);
    if (warp == 0) {
      store_out<kDk>(dk, args.dk, z.k, at, args, lane);
    }
  }
  if (leader) {
    wait_stores<0>();
  }
}

template <int kDk>
__global__ void __launch_bounds__(384, 1)
    gradients_kernel(const __grid_constant__ CUtensorMap q, const __grid_constant__ CUtensorMap k,
                     const __grid_constant__ CUtensorMap go, const __grid_constant__ CUtensorMap dv,
                     const __grid_constant__ CUtensorMap dq, const __grid_constant__ CUtensorMap dk,
                     const __grid_constant__ Arguments args) {
#if LS_HOPPER_CODE
  extern __shared__ __align__(1024) unsigned char raw[];
  Shared<kDk>& s = *reinterpret_cast<Shared<kDk>*>(raw);
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kSlots<kDk>; ++i) {
      s.slice_full[i].init(1);
      s.slice_free[i].init((8 + kAuxWarps) * kWarpArrivals);
    }
    for (int i = 0; i < kTokenSlots<kDk>; ++i) {
      s.tokens_full[i].init(1);
      s.tokens_free[i].init(2 + kAuxWarps * kWarpArrivals);
    }
    for (int i = 0; i < 2; ++i) {
      s.item_full[i].init(1);
      s.aux_done[i].init(kAuxWarps * kWarpArrivals);
    }
    s.scores_ready.init(4 * kWarpArrivals);
    s.products_done.init(8 * kWarpArrivals);
    s.cleared.init(8 * kWarpArrivals);
    fence_barrier_init();
  }
  __syncthreads();
  if (warp < 4) {
    fewer_registers<88>();
    if (warp == 0) {
      if (lane == 0) {
        produce<kDk>(s, q, k, go, dv, args);
      }
    } else {
      elementwise<kDk>(s, args, threadIdx.x - 32);
    }
  } else if (warp < 8) {
    more_registers<208>();
    query_side<kDk>(s, dq, args, warp - 4, lane);
  } else {
    more_registers<208>();
    key_side<kDk>(s, dk, args, warp - 8, lane);
  }
#endif
}

__global__ void __launch_bounds__(256)
    add_halves_kernel(const float* halves, float* to, int64_t n) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i < n) {
    to[i] = halves[i] + halves[n + i];
  }
}

}  // namespace

cudaError_t gated_delta_gradients(const DeltaSizes& z, const DeltaInputs& in, const bf16* go,
                                  const void* kept, void* states, void* gradients,
                                  const DeltaGradients& out, cudaStream_t stream) {
  // Behind the gradients of the states: dq and dk of value heads, two halves of dg.
  auto* memory = static_cast<unsigned char*>(gradients) + z.records() * z.state_bytes();
  const bool shared = z.group() > 1, halved = z.wide_dk() > 128;
  const auto elements = static_cast<int64_t>(z.token_heads());
  bf16* dq_heads = shared ? reinterpret_cast<bf16*>(memory) : out.q;
  bf16* dk_heads = shared ? dq_heads + elements * z.dk : out.k;
  auto* dg_halves = reinterpret_cast<float*>(memory + z.shared_bytes());
  CUtensorMap q, k, o, dv, dq, dk;
  if (const cudaError_t e = encode_rows(&q, in.q, z.batch, z.tokens, z.key_heads, z.dk)) return e;
  if (const cudaError_t e = encode_rows(&k, in.k, z.batch, z.tokens, z.key_heads, z.dk)) return e;
  if (const cudaError_t e = encode_rows(&o, go, z.batch, z.tokens, z.heads, z.dv)) return e;
  if (const cudaError_t e =
          encode_rows(&dv, out.v, z.batch, z.tokens, z.heads, z.dv, out.v_steps)) {
    return e;
  }
  if (const cudaError_t e = encode_rows(&dq, dq_heads, z.batch, z.tokens, z.heads, z.dk)) return e;
  if (const cudaError_t e = encode_rows(&dk, dk_heads, z.batch, z.tokens, z.heads, z.dk)) return e;
  int processors = 0;
  if (const cudaError_t e = processor_count(&processors)) return e;
  const cudaError_t error = with_width(z, [&](auto width) {
    constexpr int kDk = decltype(width)::kValue, kBytes = sizeof(Shared<kDk>);
    static_assert(kBytes <= 227 * 1024);
    const auto kernel = gradients_kernel<kDk>;
    if (const cudaError_t e = allow_shared(kernel, kBytes)) return e;
    const Arguments args{static_cast<const unsigned char*>(kept),
                         records_in(z, states),
                         records_in(z, gradients),
                         dq_heads,
                         dk_heads,
                         out.beta,
                         out.g && halved ? dg_halves : out.g,
                         static_cast<int64_t>(z.records()) * kHalves<kDk>,
                         elements,
                         layout_of(z, in, kept),
                         z.dk,
                         z.wide_dv() / 64,
                         z.scale};
    const int64_t grid = args.items < processors ? args.items : processors;
    kernel<<<static_cast<unsigned>(grid), 384, kBytes, stream>>>(q, k, o, dv, dq, dk, args);
    return cudaGetLastError();
  });
  if (error) return error;
  if (shared) {
    const int64_t rows = elements / z.group();
    if (const cudaError_t e = sum_groups(dq_heads, out.q, rows, z.group(), z.dk, stream)) return e;
    if (const cudaError_t e = sum_groups(dk_heads, out.k, rows, z.group(), z.dk, stream)) return e;
  }
  if (halved && out.g) {
    add_halves_kernel<<<static_cast<unsigned>((elements + 255) / 256), 256, 0, stream>>>(
        dg_halves, out.g, elements);
  }
  return cudaGetLastError();
}

}  // namespace ls::kernels::gated_delta
