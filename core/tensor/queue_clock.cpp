#include "core/tensor/queue_clock.h"

#include <map>

namespace ls {
namespace {
std::map<DeviceType, MakeQueueClock>& makers() {
  static auto* const instance = new std::map<DeviceType, MakeQueueClock>;
  return *instance;
}
}  // namespace

void set_queue_clock(DeviceType type, MakeQueueClock make) {
  makers()[type] = make;
}

std::unique_ptr<profile::QueueClock> queue_clock(Device& device) {
  const auto at = makers().find(device.type());
  return at == makers().end() ? nullptr : at->second(device);
}

}  // namespace ls
