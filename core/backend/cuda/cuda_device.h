#pragma once
// GPUs as devices: memory, streams, events and graphs of the CUDA runtime.
#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>
#include <vector>

#include "core/tensor/allocator.h"

namespace ls::cuda {

/// Events are made once and used again.
class EventPool {
 public:
  cudaEvent_t take();
  void give_back(cudaEvent_t event);

 private:
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;
};

class CudaStream;

class CudaDevice final : public Device {
 public:
  CudaDevice(int index, DeviceProperties properties);
  ~CudaDevice() override;

  Stream& default_stream() override;
  Stream& new_stream() override;
  Allocator& allocator() override { return *memory_; }
  Allocator& pinned() override { return *pinned_; }
  void synchronize() override;
  /// What this thread asks of the CUDA runtime is of this device.
  void use() const;
  EventPool& events() { return events_; }

 protected:
  void* reserve(MemoryKind kind, Index bytes) override;
  void release(MemoryKind kind, void* data, Index bytes) override;
  void note_allocated(const BlockPool& pool, void* data, Index bytes, Stream* home) override;

 private:
  EventPool events_;
  std::shared_ptr<BlockPool> memory_, pinned_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<CudaStream>> streams_;
};

/// @throws Error(Device) saying why: no driver, one that is too old, no such GPU, a compute
/// capability that this program has no code for
CudaDevice& cuda_device(int index);
int count_cuda_devices();

}  // namespace ls::cuda
