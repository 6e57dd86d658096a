#pragma once
// Clocks of devices, for profiles of what is put into their queues.
#include <memory>

#include "core/base/profile.h"
#include "core/tensor/device.h"

namespace ls {

using MakeQueueClock = std::unique_ptr<profile::QueueClock> (*)(Device&);
/// By who brings devices of that type.
void set_queue_clock(DeviceType type, MakeQueueClock make);
/// Null for devices whose work the wall clock times: those that do everything at once.
std::unique_ptr<profile::QueueClock> queue_clock(Device& device);

}  // namespace ls
