#pragma once
// Whether this program has code for the GPU of the calling thread.
#include <cuda_runtime_api.h>

namespace ls::cuda {

cudaError_t probe_kernels();

}  // namespace ls::cuda
