#pragma once
// Copies by the engine: tiles through tensor maps, and raw runs of bytes. One thread issues them.
// Loads complete on an mbarrier that expects their bytes; stores in groups of the issuing thread.
#include <cuda.h>

#include "core/backend/cuda/device/barrier.cuh"

namespace ls::cuda {

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/// A box of a tensor of four dimensions, at element coordinates, innermost first, to `to`.
/// What lies outside the tensor arrives as zeros and counts as bytes.
__device__ __forceinline__ void load_box(void* to, const CUtensorMap* map, Mbarrier& full, int c0,
                                         int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(smem_addr(to)),
      "l"(map), "r"(smem_addr(&full.word)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

/// Asks for a box to be brought into the L2 cache.
__device__ __forceinline__ void prefetch_box(const CUtensorMap* map, int c0, int c1, int c2,
                                             int c3) {
  asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global [%0, {%1, %2, %3, %4}];" ::"l"(map),
               "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

/// A box from shared memory; what lies outside the tensor is not written.
__device__ __forceinline__ void store_box(const CUtensorMap* map, const void* from, int c0, int c1,
                                          int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
          map),
      "r"(smem_addr(from)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

/// `bytes` (a multiple of 16) from `from` to `to`, both aligned to 16.
__device__ __forceinline__ void load_bytes(void* to, const void* from, uint32_t bytes,
                                           Mbarrier& full) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(smem_addr(to)),
      "l"(from), "r"(bytes), "r"(smem_addr(&full.word))
      : "memory");
}
/// What a load says of its bytes to the L2 cache: nobody reads them again.
__device__ __forceinline__ uint64_t read_once_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ void load_bytes(void* to, const void* from, uint32_t bytes,
                                           Mbarrier& full, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1], %2, [%3], %4;" ::"r"(smem_addr(to)),
      "l"(from), "r"(bytes), "r"(smem_addr(&full.word)), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void store_bytes(void* to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(smem_addr(from)), "r"(bytes)
               : "memory");
}

/// Stores of this thread up to here are a group.
__device__ __forceinline__ void commit_stores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Until at most N of the last groups still read shared memory.
template <int N>
__device__ __forceinline__ void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory");
}
/// Until at most N of the last groups are not yet written.
template <int N>
__device__ __forceinline__ void wait_stores() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(N) : "memory");
}

}  // namespace ls::cuda
