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
#include "core/ops/delta_rule/kda.h"

namespace ls::kernels::kda {

using namespace cuda;
using wgmma::Depth;

inline constexpr int kTile = kTileBytes<64>;  // 8 KiB
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

/// The chain and value columns of a CTA of the loops.
struct LoopPlace {
  int slice, head, b;
  int64_t chain, record;
  __device__ LoopPlace(int block, int heads, int chunks) {
    slice = block % kSlices;
    chain = block / kSlices;
    head = static_cast<int>(chain % heads);
    b = static_cast<int>(chain / heads);
    record = chain * chunks;
  }
};

/// A state [128][128] f32 in device memory to and from the sums of S^T: 64 values.
__device__ __forceinline__ int64_t state_offset(const LoopPlace& at, int i, int warp, int lane) {
  const int d = 8 * (i / 4) + 2 * (lane & 3) + i % 2;
  return (at.chain * kDk + d) * kDv + 64 * at.slice + 16 * warp + (lane >> 2) + (i & 2) * 4;
}
__device__ __forceinline__ void load_state(float (&state)[kDk / 2], const float* from,
                                           const LoopPlace& at, int warp, int lane) {
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) {
    state[i] = from ? from[state_offset(at, i, warp, lane)] : 0.f;
  }
}
__device__ __forceinline__ void store_state(float* to, const float (&state)[kDk / 2],
                                            const LoopPlace& at, int warp, int lane) {
#pragma unroll
  for (int i = 0; i < kDk / 2; ++i) {
    to[state_offset(at, i, warp, lane)] = state[i];
  }
}

}  // namespace ls::kernels::kda
