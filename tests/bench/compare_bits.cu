#include "tests/bench/compare_bits.h"

#include <cuda_runtime_api.h>

namespace ls::test {
namespace {

__global__ void compare(const unsigned char* a, const unsigned char* b, int64_t bytes,
                        std::int32_t* differ) {
  const auto* const x = reinterpret_cast<const uint4*>(a);
  const auto* const y = reinterpret_cast<const uint4*>(b);
  const int64_t thread = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  bool other = false;
  for (int64_t i = thread; i < bytes / 16; i += int64_t{gridDim.x} * blockDim.x) {
    const uint4 p = x[i], q = y[i];
    other = other || p.x != q.x || p.y != q.y || p.z != q.z || p.w != q.w;
  }
  for (int64_t i = bytes / 16 * 16 + thread; i < bytes; i += int64_t{gridDim.x} * blockDim.x) {
    other = other || a[i] != b[i];
  }
  if (other) {
    *differ = 1;
  }
}

}  // namespace

bool compare_bits(const TensorView& a, const TensorView& b, TensorView differ) {
  const Index bytes = a.numel() * dtype_size(a.dtype());
  const bool fits =
      b.numel() * dtype_size(b.dtype()) == bytes && a.is_contiguous() && b.is_contiguous();
  cudaDeviceSynchronize();  // what makes them is on a stream of its own
  if (fits) {
    compare<<<1024, 256>>>(static_cast<const unsigned char*>(a.raw()),
                           static_cast<const unsigned char*>(b.raw()), bytes,
                           static_cast<std::int32_t*>(differ.raw()));
  }
  return fits && cudaDeviceSynchronize() == cudaSuccess;
}

}  // namespace ls::test
