#pragma once
// What the host gives a step that is a function of buffers at fixed places, for instance a graph.
#include <functional>
#include <vector>

#include "core/tensor/tensor.h"

namespace ls {

/// The host waits until `ready`, so as not to run further ahead of a device: that is no wait for
/// what the device computes, and none that is counted.
void hold_back(const std::function<bool()>& ready);

/// Buffers on a device, and pinned copies of them for the steps that are under way: the host writes
/// the copies of one step while the device still reads those of others. It waits only where all
/// copies are in use, so it is never more than so many steps ahead.
class StepInputs {
 public:
  /// `ahead`: steps that the host may be ahead of the device, from 1.
  StepInputs(Device& device, int ahead);

  /// One more buffer of zeros, and a copy of it in every slot. @returns its number
  std::size_t add(const Shape& shape, DType dtype);
  /// Where every step finds it.
  const Tensor& buffer(std::size_t input) const { return buffers_[input]; }
  /// The host's copy for the next step: what it held for an earlier one, to be written.
  Tensor& next(std::size_t input);
  /// Copies all of them to their buffers, on the current stream of the device.
  void send();

 private:
  struct Slot {
    std::vector<Tensor> copies;
    Event read;  // when the device has them
    bool free = true;
  };
  Device& device_;
  std::vector<Tensor> buffers_;
  std::vector<Slot> slots_;
  std::size_t current_ = 0;
};

}  // namespace ls
