#pragma once
// Where documents begin, as a mark a token, for kernels that walk rows.
#include "core/backend/cuda/device/machine.cuh"
#include "core/ops/common/block_rows.h"

namespace ls::ops::common {

/// One thread a document; `begins` is zeros before.
static __global__ void __launch_bounds__(256)
    begins_kernel(const std::int64_t* offsets, int documents, int64_t tokens,
                  unsigned char* begins) {
  const int n = static_cast<int>(blockIdx.x * 256 + threadIdx.x);
  if (n < documents && offsets[n] < tokens) {
    begins[offsets[n]] = 1;
  }
}
/// [B,T] of the rows of `table`, whose offsets are looked at first; null where it has none.
inline const unsigned char* mark_documents(cuda::Machine& memory, StretchTable& table) {
  if (!table.offsets) {
    return nullptr;
  }
  check_offsets(memory, table);
  const Index all = table.batch * table.tokens;
  unsigned char* begins = nullptr;
  take(memory, all, begins);
  cuda::check(cudaMemsetAsync(begins, 0, static_cast<std::size_t>(all), cuda::queue().stream),
              "clearing marks of documents");
  cuda::launch(&begins_kernel, dim3(static_cast<unsigned>(cuda::blocks_for(table.count, 256))),
               dim3(256), 0, table.checked, static_cast<int>(table.count), all, begins);
  return begins;
}

}  // namespace ls::ops::common
