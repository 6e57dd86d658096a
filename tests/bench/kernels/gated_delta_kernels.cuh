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
using cuda::store_box;
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

/// Raises a kernel's limit of dynamic shared memory, once.
template <class Kernel>
cudaError_t allow_shared(Kernel* kernel, int bytes) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

/// What a call of no tokens does to a state: it stays (null: zero).
inline cudaError_t pass_state(const DeltaSizes& z, const float* from, float* to,
                              cudaStream_t stream) {
  const std::size_t bytes = static_cast<std::size_t>(z.batch) * static_cast<std::size_t>(z.heads) *
                            kDk * static_cast<std::size_t>(z.dv) * sizeof(float);
  if (!to || bytes == 0) return cudaSuccess;
  return from ? cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream)
              : cudaMemsetAsync(to, 0, bytes, stream);
}
inline bool valid(const DeltaSizes& z) {
  return z.batch >= 0 && z.tokens >= 0 && z.heads >= 0 && z.dv > 0 && z.dv % 64 == 0;
}

inline cudaError_t processor_count(int* to) {
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  return cudaDeviceGetAttribute(to, cudaDevAttrMultiProcessorCount, device);
}

}  // namespace ls::kernels
