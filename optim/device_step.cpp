#include "optim/device_step.h"

#include <array>

namespace ls::optim {
namespace {

std::array<const StepKernels*, kNumDeviceTypes>& tables() {
  static std::array<const StepKernels*, kNumDeviceTypes> all{};
  return all;
}

}  // namespace

const StepKernels* step_kernels(DeviceType type) {
  return tables()[static_cast<std::size_t>(type)];
}
void set_step_kernels(DeviceType type, const StepKernels& kernels) {
  tables()[static_cast<std::size_t>(type)] = &kernels;
}

}  // namespace ls::optim
