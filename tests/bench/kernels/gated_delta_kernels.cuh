#pragma once
// What the kernels of the gated delta rule share: records of a chunk in device memory, as images
// of shared memory, each moved by one bulk copy. Of chunk r = (sequence * H + head) * chunks + n:
//   kept      N tile, P tile, gates                              (17 KiB)
//   states    S^T before the chunk: for each 64 value rows, tiles [64 v][64 d] by columns d
//   values    X: tiles [64 t][64 v] by columns v
// and likewise gradients, dS'^T after the chunk.
#include "device/bulk_copy.cuh"
#include "device/unit_lower.cuh"
#include "device/wgmma.cuh"
#include "gated_delta.h"
#include "tensor_maps.h"

namespace ls::kernels {

using cuda::as_operand;
using cuda::bf16;
using cuda::block_address;
using cuda::block_address_t;
using cuda::ChunkGates;
using cuda::commit_stores;
using cuda::fence_barrier_init;
using cuda::fence_proxy_async;
using cuda::high_bf16;
using cuda::lane_index;
using cuda::load_box;
using cuda::load_bytes;
using cuda::load_matrices_t;
using cuda::low_bf16;
using cuda::Mbarrier;
using cuda::pack_bf16;
using cuda::smem_addr;
using cuda::store_bytes;
using cuda::store_matrices;
using cuda::store_matrices_t;
using cuda::tile_offset;
using cuda::wait_stores;
using cuda::wait_stores_read;
using cuda::warp_index;
using cuda::wgmma::Depth;
namespace wgmma = cuda::wgmma;

inline constexpr int kTile = cuda::kTileBytes<64>;  // 8 KiB
inline constexpr int kDk = DeltaSizes::kDk;
static_assert(sizeof(ChunkGates) == DeltaSizes::kGates && kTile == DeltaSizes::kScore);

/// Where chunk images lie.
struct Records {
  unsigned char* states;  // records of Dv * 256 bytes
  unsigned char* values;  // records of Dv * 128 bytes
  int slices;             // Dv / 64
  __host__ __device__ unsigned char* state(int64_t record, int slice) const {
    return states + (record * slices + slice) * (2 * kTile);
  }
  __host__ __device__ unsigned char* value(int64_t record, int slice) const {
    return values + (record * slices + slice) * kTile;
  }
};
inline Records records_in(const DeltaSizes& sizes, void* memory) {
  auto* p = static_cast<unsigned char*>(memory);
  return {p, p ? p + sizes.records() * sizes.state_bytes() : nullptr, sizes.dv / 64};
}

/// The 16 columns of a tile [64 t][64 v] that warp `warp` has staged, to rows 64 n on of a tensor
/// [B,T,H,Dv]: each row 32 bytes, those past the end not.
template <class Place, class Arguments>
__device__ __forceinline__ void store_rows(bf16* to, const unsigned char* tile, const Place& at,
                                           const Arguments& args, int n, int warp, int lane) {
  const int column = 16 * warp + 8 * (lane & 1);
  const int64_t row_size = static_cast<int64_t>(args.heads) * args.dv;
  const int first = 64 * n + (lane >> 1);
  to += (static_cast<int64_t>(at.b) * args.tokens + first) * row_size + at.head * args.dv +
        64 * at.slice + column;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint4 piece =
        *reinterpret_cast<const uint4*>(tile + cuda::tile_offset(16 * i + (lane >> 1), column));
    if (first + 16 * i < args.tokens) {
      *reinterpret_cast<uint4*>(to + 16 * i * row_size) = piece;
    }
  }
}

/// Raises a kernel's limit of dynamic shared memory, once.
template <class Kernel>
cudaError_t allow_shared(Kernel* kernel, int bytes) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

}  // namespace ls::kernels
