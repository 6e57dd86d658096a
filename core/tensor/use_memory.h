#pragma once
// Memory of graphs for work that runs before the first of them is recorded.
#include <memory>

#include "core/tensor/allocator.h"

namespace ls {

/// While alive, work of this thread on the device's streams takes its memory from `memory`, whose
/// free blocks the next recording gets: a step that runs once before it is recorded leaves no cache
/// of its own size. No graph has been recorded there yet: a replay would write over what is alive.
/// What outlives this is kept by graphs that use it, as anything else from outside.
class UseMemory {
 public:
  UseMemory(Device& device, std::shared_ptr<BlockPool> memory);
  ~UseMemory();
  UseMemory(const UseMemory&) = delete;
  UseMemory& operator=(const UseMemory&) = delete;

  /// Where this thread's work on the device takes memory; null: from the device.
  static Allocator* of(const Device& device);

 private:
  class Lender;
  Device& device_;
  Lender* lender_;
};

}  // namespace ls
