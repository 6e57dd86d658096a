#include "core/backend/cuda/probe.h"

namespace ls::cuda {
namespace {

__global__ void nothing() {}

}  // namespace

cudaError_t probe_kernels() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&nothing));
}

}  // namespace ls::cuda
