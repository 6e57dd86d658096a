#pragma once
// Devices by name, and the context of the kernel that runs.
#include <string>

#include "core/tensor/context.h"

namespace ls {

/// "cpu", "cuda" (the first GPU), "cuda:1", or "auto": the first GPU where there is one that this
/// program can use, else the processor.
/// @throws Error(Config) on another name, Error(Device) with the reason where it cannot be used
Device& device_named(const std::string& name);
bool is_device_name(std::string_view name);
/// What the program can use, one line a device, and why it cannot use a GPU where it cannot.
std::vector<std::string> list_devices();

/// A kind of device that this program was built with.
struct DeviceKind {
  /// The same device each time. @throws Error(Device) with the reason where it cannot be used
  Device& (*find)(int index) = nullptr;
  /// How many there are. @throws Error(Device) as find
  int (*count)() = nullptr;
};
void set_device_kind(DeviceType type, DeviceKind kind);

/// While alive, what this thread launches belongs to `ctx`: kernels get views only.
class RunningOn {
 public:
  explicit RunningOn(const ExecutionContext& ctx);
  ~RunningOn();
  RunningOn(const RunningOn&) = delete;
  RunningOn& operator=(const RunningOn&) = delete;
  /// @throws Error(Internal) outside
  static const ExecutionContext& context();

 private:
  const ExecutionContext* outer_;
};

}  // namespace ls
