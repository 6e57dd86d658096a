#include "tests/support/gpu.h"

namespace ls::test {

Device* gpu() {
  Device& device = device_named("auto");
  return &device == &cpu() ? nullptr : &device;
}

}  // namespace ls::test
