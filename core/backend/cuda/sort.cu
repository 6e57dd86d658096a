#include "core/backend/cuda/sort.h"

#include <algorithm>
#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "core/backend/cuda/launch.h"

namespace ls::cuda {
namespace {

__global__ void count_up(std::int32_t* to, Index n) {
  const Index i = Index{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < n) {
    to[i] = static_cast<std::int32_t>(i);
  }
}

}  // namespace

void sort_keys(const std::uint32_t* keys, Index n, Index below, std::uint32_t* sorted,
               std::int32_t* order) {
  if (n == 0) {
    return;
  }
  const int bits =
      std::max(1, static_cast<int>(std::bit_width(static_cast<std::uint64_t>(below - 1))));
  const Scratch places(n * Index{sizeof(std::int32_t)});
  auto* const from = places.as<std::int32_t>();
  launch(&count_up, dim3(static_cast<unsigned>(blocks_for(n, 256))), dim3(256), 0, from, n);
  const cudaStream_t stream = queue().stream;
  std::size_t bytes = 0;
  check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, keys, sorted,
                                        static_cast<const std::int32_t*>(from), order,
                                        static_cast<int>(n), 0, bits, stream),
        "sorting");
  const Scratch memory(static_cast<Index>(bytes));
  check(cub::DeviceRadixSort::SortPairs(memory.data(), bytes, keys, sorted,
                                        static_cast<const std::int32_t*>(from), order,
                                        static_cast<int>(n), 0, bits, stream),
        "sorting");
  launched();
}

}  // namespace ls::cuda
