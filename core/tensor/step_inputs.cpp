#include "core/tensor/step_inputs.h"

#include <chrono>
#include <thread>

#include "core/base/error.h"

namespace ls {

void hold_back(const std::function<bool()>& ready) {
  constexpr std::chrono::microseconds kPause(20);
  while (!ready()) {
    std::this_thread::sleep_for(kPause);
  }
}

StepInputs::StepInputs(Device& device, int ahead)
    : device_(device), slots_(static_cast<std::size_t>(ahead)) {
  LS_CHECK(ahead > 0, kInternal, "inputs for {} steps at once", ahead);
}

std::size_t StepInputs::add(const Shape& shape, DType dtype) {
  buffers_.push_back(Tensor::zeros(shape, dtype, device_));
  for (Slot& slot : slots_) {
    slot.copies.push_back(Tensor::pinned(shape, dtype, device_));
    slot.copies.back().zero_();
  }
  return buffers_.size() - 1;
}

Tensor& StepInputs::next(std::size_t input) {
  Slot& slot = slots_[current_];
  hold_back([&] { return slot.free || slot.read.happened(); });
  slot.free = true;
  return slot.copies[input];
}

void StepInputs::send() {
  for (std::size_t i = 0; i < buffers_.size(); ++i) {
    buffers_[i].transfer_(next(i));
  }
  Slot& slot = slots_[current_];
  slot.read = current_stream(device_).record();
  slot.free = false;
  current_ = (current_ + 1) % slots_.size();
}

}  // namespace ls
