#pragma once
// What the kernels of Kimi Delta Attention share: records of a chunk in device memory, as images of
// shared memory. Of chunk r = (sequence * H + head) * chunks + n:
//   kept       tiles of exp(G) K, scale exp(G) Q, beta exp(G_C - G) K, N, P; exp(G_C) (65 KiB)
//   states     S^T before the chunk: for each 64 values, tiles [64 v][64 d] by columns d
//   values     X: tiles [64 t][64 v] by columns v
// and likewise gradients, dS'^T after the chunk.
#include "core/backend/cuda/device/bulk_copy.cuh"
#include "core/backend/cuda/device/channel_gates.cuh"
#include "core/backend/cuda/device/wgmma.cuh"
#include "core/backend/cuda/kernel_host.h"
#include "core/backend/cuda/tensor_maps.h"
#include "core/ops/common/hopper_chunks.cuh"
#include "core/ops/delta_rule/kda.h"

namespace ls::kernels::kda {

using namespace cuda;
using wgmma::Depth;

inline constexpr int kDk = KdaSizes::kDk;
inline constexpr int kDv = KdaSizes::kDv;
inline constexpr int kSlices = kDv / 64;

/// Of a record of `kept`, in bytes.
struct KeptAt {
  static constexpr int kReader = 0;          // exp(G) K
  static constexpr int kQuery = 2 * kTile;   // scale exp(G) Q
  static constexpr int kWriter = 4 * kTile;  // beta exp(G_C - G) K
  static constexpr int kSolve = 6 * kTile;   // N
  static constexpr int kScores = 7 * kTile;  // P
  static constexpr int kAll = 8 * kTile;     // exp(G_C)
};
inline constexpr int kAllBytes = kDk * sizeof(float);
static_assert(KdaSizes::kKept == KeptAt::kAll + kAllBytes);

/// Where chunk images lie.
struct Records {
  unsigned char* states;
  unsigned char* values;
  __host__ __device__ unsigned char* state(int64_t record, int slice) const {
    return states + (record * kSlices + slice) * (2 * kTile);
  }
  __host__ __device__ unsigned char* value(int64_t record, int slice) const {
    return values + (record * kSlices + slice) * kTile;
  }
};
inline Records records_in(const KdaSizes& sizes, void* memory) {
  auto* p = static_cast<unsigned char*>(memory);
  return {p, p ? p + sizes.records() * KdaSizes::kState : nullptr};
}

/// beta as everything multiplies by it: dbeta divides by it, so 1e-12 stands for zero.
__device__ __forceinline__ float safe_beta(float beta) {
  return fabsf(beta) < 1e-12f ? 1e-12f : beta;
}

inline Layout layout_in(const KdaSizes& z, const KdaInputs& in, const void* kept) {
  const auto* const places = static_cast<const unsigned char*>(kept) + z.records() * z.kKept;
  return {in.offsets,        in.offsets ? reinterpret_cast<const int2*>(places) : nullptr,
          z.tokens,          z.heads,
          z.group(),         z.chunks(),
          z.batch * z.heads, z.state_tokens};
}

/// The chain and value columns of a CTA of the loops.
struct LoopPlace {
  int slice;
  Chain chain;
  __device__ LoopPlace(int block, const Layout& layout)
      : slice(block % kSlices), chain(layout, block / kSlices) {}
  __device__ int token(int n) const { return chain.first + 64 * n; }
};

/// Rows [B,T,heads,128] without gaps.
__device__ __forceinline__ RowSteps dense_rows(const Layout& l) {
  return RowSteps().of(l.tokens, l.heads, kDv);
}
/// 64 value columns of chunk n to such rows, from one tile: a box by one thread, or with kCuts by a
/// warp, row by row where another document follows.
template <bool kCuts>
__device__ __forceinline__ void store_chunk(const CUtensorMap& map, bf16* rows,
                                            const RowSteps& steps, const unsigned char* tile,
                                            int column, int head, int first, int row, int valid,
                                            bool cut, int lane) {
  if (kCuts && cut) {
    copy_rows(rows + row * steps.sequence + first * steps.token + head * steps.head + column,
              steps.token, tile, valid, 64, lane, 32);
  } else if (!kCuts || lane == 0) {
    store_box(&map, tile, column, head, first, row);
  }
}

/// A state [128][128] f32 in device memory, of a chain's entry, to and from the sums of S^T: 64
/// values. Entry -1: none.
__device__ __forceinline__ int64_t state_offset(int64_t entry, int slice, int i, int warp,
                                                int lane) {
  const int d = 8 * (i / 4) + 2 * (lane & 3) + i % 2;
  return (entry * kDk + d) * kDv + 64 * slice + 16 * warp + (lane >> 2) + (i & 2) * 4;
}
__device__ __forceinline__ void load_state(float (&state)[kDk / 2], const float* from,
                                           int64_t entry, int slice, int warp, int lane) {
  const bool there = from && entry >= 0;
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) {
    state[i] = there ? from[state_offset(entry, slice, i, warp, lane)] : 0.f;
  }
}
__device__ __forceinline__ void store_state(float* to, const float (&state)[kDk / 2], int64_t entry,
                                            int slice, int warp, int lane) {
  if (to && entry >= 0) {
#pragma unroll
    for (int i = 0; i < kDk / 2; ++i) {
      to[state_offset(entry, slice, i, warp, lane)] = state[i];
    }
  }
}

}  // namespace ls::kernels::kda
