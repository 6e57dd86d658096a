#pragma once
// A device in host memory that behaves as a GPU does, so that everything about devices is tested
// where there is none. Its memory is mapped twice: the addresses that the host holds are protected,
// kernels get the others. Each stream is a queue with a thread of its own that runs late, in an
// order that a seed draws among those that events allow. What must be in order and is not, and what
// is used after it was freed, is an error every time (access_log.h). Its arithmetic is that of the
// CPU kernels.
#include <memory>
#include <vector>

#include "core/tensor/allocator.h"

namespace ls::test {

class StandInMachine;
class StandInStream;

class StandIn final : public Device {
 public:
  /// Devices of one machine may copy to one another.
  explicit StandIn(std::uint64_t seed = 1, std::shared_ptr<StandInMachine> machine = nullptr);
  ~StandIn() override;

  Stream& default_stream() override;
  Stream& new_stream() override;
  Allocator& allocator() override { return *memory_; }
  Allocator& pinned() override { return *pinned_; }
  void* kernel_address(void* data) const override;
  void synchronize() override;

  const std::shared_ptr<StandInMachine>& machine() const { return machine_; }
  /// From now on queues are worked on beside the host too, as those of ranks must be: they wait for
  /// one another.
  void run_by_itself();
  /// From now on a capture fails at its kernel of this number (0: the first), -1: none does.
  void fail_captures_at(int kernel) { fails_at_ = kernel; }
  /// Of the device's own memory.
  Index reserved_bytes() const { return memory_->reserved_bytes(); }

 protected:
  void* reserve(MemoryKind kind, Index bytes) override;
  void release(MemoryKind kind, void* data, Index bytes) override;
  void note_allocated(const BlockPool& pool, void* data, Index bytes, Stream* home) override;
  void note_freed(const BlockPool& pool, void* data, Index bytes, Stream* home) override;

 private:
  friend class StandInStream;
  int fails_at_ = -1;
  std::shared_ptr<StandInMachine> machine_;
  std::shared_ptr<BlockPool> memory_, pinned_;
  std::vector<std::unique_ptr<StandInStream>> streams_;
};

}  // namespace ls::test
