#pragma once
// What launches on the host share.
#include <cuda_runtime_api.h>

#include <cstddef>

namespace ls::kernels {

/// Raises a kernel's limit of dynamic shared memory.
template <class Kernel>
cudaError_t allow_shared(Kernel* kernel, int bytes) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                              cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

/// Multiprocessors of the current device.
inline cudaError_t processor_count(int* to) {
  int device = 0;
  if (const cudaError_t e = cudaGetDevice(&device)) return e;
  return cudaDeviceGetAttribute(to, cudaDevAttrMultiProcessorCount, device);
}

/// What a call of no tokens does to states: they stay (null: zero).
inline cudaError_t pass_state(std::size_t elements, const float* from, float* to,
                              cudaStream_t stream) {
  const std::size_t bytes = elements * sizeof(float);
  if (!to || bytes == 0) return cudaSuccess;
  return from ? cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream)
              : cudaMemsetAsync(to, 0, bytes, stream);
}

}  // namespace ls::kernels
