#pragma once
// What the kernels of the gated delta rule share: records of a chunk in device memory, as images
// of shared memory, each moved by one bulk copy. Of chunk r = (row * HV + head) * chunks + n,
// widths as on the chip (gated_delta.h):
//   kept      N tile, P tile, gates                              (17 KiB)
//   states    S^T before the chunk: for each 64 value rows, tiles [64 v][64 d] by columns d
//   values    X: tiles [64 t][64 v] by columns v
// and likewise gradients, dS'^T after the chunk. Rows of a tile that are not the sequence's own are
// zeros: the copy engine puts them behind a row of the batch, clear_rows behind a document.
#include "core/backend/cuda/device/unit_lower.cuh"
#include "core/backend/cuda/device/wgmma.cuh"
#include "core/backend/cuda/tensor_maps.h"
#include "core/ops/common/hopper_chunks.cuh"
#include "core/ops/delta_rule/gated_delta.h"

namespace ls::kernels::gated_delta {

using cuda::arrive_warp;
using cuda::as_operand;
using cuda::bf16;
using cuda::block_address;
using cuda::block_address_t;
using cuda::ChunkGates;
using cuda::commit_stores;
using cuda::dot8;
using cuda::fence_barrier_init;
using cuda::fence_proxy_async;
using cuda::high_bf16;
using cuda::init_ring;
using cuda::kWarpArrivals;
using cuda::lane_index;
using cuda::last_turn;
using cuda::load_box;
using cuda::load_bytes;
using cuda::load_transposed;
using cuda::low_bf16;
using cuda::Mbarrier;
using cuda::pack_bf16;
using cuda::smem_addr;
using cuda::store_box;
using cuda::store_bytes;
using cuda::store_matrices;
using cuda::store_operands;
using cuda::store_transposed;
using cuda::this_turn;
using cuda::tile_offset;
using cuda::wait_stores;
using cuda::wait_stores_read;
using cuda::warp_index;
using cuda::wgmma::Depth;
namespace wgmma = cuda::wgmma;

static_assert(sizeof(ChunkGates) == DeltaSizes::kGates && kTile == DeltaSizes::kScore);

/// Where chunk images lie.
struct Records {
  unsigned char* states;
  unsigned char* values;
  int slices, tiles;  // Dv / 64, Dk / 64 on the chip
  __host__ __device__ unsigned char* state(int64_t record, int slice) const {
    return states + (record * slices + slice) * (tiles * kTile);
  }
  __host__ __device__ unsigned char* value(int64_t record, int slice) const {
    return values + (record * slices + slice) * kTile;
  }
};
inline Records records_in(const DeltaSizes& sizes, void* memory) {
  auto* p = static_cast<unsigned char*>(memory);
  return {p, p ? p + sizes.records() * sizes.state_bytes() : nullptr, sizes.wide_dv() / 64,
          sizes.wide_dk() / 64};
}

inline Layout layout_of(const DeltaSizes& z, const DeltaInputs& in, const void* kept) {
  const auto* behind = static_cast<const unsigned char*>(kept) + z.records() * DeltaSizes::kKept;
  return {in.offsets,        in.offsets ? reinterpret_cast<const int2*>(behind) : nullptr,
          z.tokens,          z.heads,
          z.group(),         z.chunks(),
          z.batch * z.heads, z.state_tokens};
}

inline bool valid(const DeltaSizes& z, const DeltaInputs& in) {
  return z.batch >= 0 && z.tokens >= 0 && z.key_heads > 0 && z.heads > 0 &&
         z.heads % z.key_heads == 0 && z.dk > 0 && z.dk <= 256 && z.dk % 8 == 0 && z.dv > 0 &&
         z.dv % 8 == 0 && z.documents >= 0 && (z.documents > 0) == (in.offsets != nullptr) &&
         (z.documents == 0 || z.batch == 1);
}
/// Nothing to compute with.
inline bool no_tokens(const DeltaSizes& z) {
  return z.batch == 0 || z.tokens == 0;
}

/// f(width) with Dk on the chip as a type.
template <int N>
struct Width {
  static constexpr int kValue = N;
};
template <class F>
cudaError_t with_width(const DeltaSizes& z, F f) {
  const int width = z.wide_dk();
  return width == 64 ? f(Width<64>()) : width == 128 ? f(Width<128>()) : f(Width<256>());
}

}  // namespace ls::kernels::gated_delta
