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
using cuda::launch_dependents;
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
using cuda::wait_for_previous_grid;
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

inline cudaError_t processor_count(int* to) {
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  return cudaDeviceGetAttribute(to, cudaDevAttrMultiProcessorCount, device);
}

/// Launches a kernel that may start before the one before it in the stream has ended.
template <class... Parameters, class... Given>
cudaError_t launch_early(void (*kernel)(Parameters...), int grid, int threads, int bytes,
                         cudaStream_t stream, const Given&... given) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(grid));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(bytes);
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, given...);
}

}  // namespace ls::kernels
