#pragma once
// How a kernel's host code puts work on the GPU: it gets views only, and asks here for the stream.
#include <cuda_runtime_api.h>

#include "core/tensor/error_flag.h"
#include "core/tensor/storage.h"

namespace ls::cuda {

/// @throws Error(Device) naming what was done, and the op under way
void check(cudaError_t result, const char* what);

/// Of the kernel that runs (RunningOn).
struct Queue {
  cudaStream_t stream = nullptr;
  ErrorFlag* error_flag = nullptr;
  int processors = 1;
  int generation = 0;
  Index shared_bytes = 0;  ///< that one block may ask for
};
Queue queue();
/// After each launch: an error names the op; with LONGSCAN_CUDA_SYNC=1 the host waits first, so
/// that a fault inside of the kernel is named too.
void launched();

/// Memory of the device for the kernels that are launched while it lives: later work of the stream
/// may have it at once.
class Scratch {
 public:
  explicit Scratch(Index bytes);
  void* data() const { return storage_.data(); }
  template <class T>
  T* as() const {
    return static_cast<T*>(storage_.data());
  }

 private:
  Storage storage_;
};

/// Least number of blocks of `size` that hold n.
constexpr Index blocks_for(Index n, Index size) {
  return (n + size - 1) / size;
}

#ifdef __CUDACC__
/// kernel<<<blocks, threads, shared>>>(args...) on the queue; nothing where there are no blocks.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 blocks, dim3 threads, std::size_t shared,
            const Args&... args) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) {
    return;
  }
  constexpr std::size_t kAlways = 48 << 10;
  if (shared > kAlways) {
    check(
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)),
        "asking for shared memory");
  }
  kernel<<<blocks, threads, shared, queue().stream>>>(args...);
  launched();
}
#endif

}  // namespace ls::cuda
