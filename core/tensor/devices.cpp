#include "core/tensor/devices.h"

#include <array>
#include <charconv>

#include "core/base/error.h"

namespace ls {
namespace {

std::array<DeviceKind, kNumDeviceTypes>& kinds() {
  static std::array<DeviceKind, kNumDeviceTypes> all;
  return all;
}

const DeviceKind& gpu_kind() {
  const DeviceKind& kind = kinds()[static_cast<std::size_t>(DeviceType::kCuda)];
  LS_CHECK(kind.find, kDevice,
           "this program was built without CUDA; configure it where nvcc and the CUDA toolkit are "
           "(cmake -DLONGSCAN_CUDA=ON says what is missing), or set device to cpu");
  return kind;
}

/// Number behind "cuda:", 0 of "cuda", -1 of anything else.
int gpu_index(std::string_view name) {
  if (name == "cuda") {
    return 0;
  }
  int index = -1;
  if (name.starts_with("cuda:")) {
    name.remove_prefix(5);
    const auto end = name.data() + name.size();
    const auto [stop, error] = std::from_chars(name.data(), end, index);
    index = error == std::errc() && stop == end ? index : -1;
  }
  return index;
}

thread_local const ExecutionContext* running = nullptr;

}  // namespace

void set_device_kind(DeviceType type, DeviceKind kind) {
  kinds()[static_cast<std::size_t>(type)] = kind;
}

bool is_device_name(std::string_view name) {
  return name == "cpu" || name == "auto" || gpu_index(name) >= 0;
}

Device& device_named(const std::string& name) {
  if (name == "cpu") {
    return cpu();
  }
  if (name == "auto") {
    try {
      return gpu_kind().find(0);
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kDevice) {
        throw;
      }
      return cpu();
    }
  }
  const int index = gpu_index(name);
  LS_CHECK(index >= 0, kConfig, "device is '{}', expected cpu, cuda, cuda:N or auto", name);
  return gpu_kind().find(index);
}

std::vector<std::string> list_devices() {
  std::vector<std::string> lines;
  try {
    const DeviceKind& kind = gpu_kind();
    const int count = kind.count();
    for (int i = 0; i < count; ++i) {
      const Device& device = kind.find(i);
      const DeviceProperties& p = device.properties();
      lines.push_back(fmt::format("{}: {}, compute capability {}.{}, {} processors, {} MiB",
                                  device.describe(), p.model, p.generation / 10, p.generation % 10,
                                  p.processors, p.memory >> 20));
    }
  } catch (const Error& e) {
    lines.push_back("none: " + e.message());
  }
  return lines;
}

RunningOn::RunningOn(const ExecutionContext& ctx) : outer_(running) {
  running = &ctx;
}
RunningOn::~RunningOn() {
  running = outer_;
}
const ExecutionContext& RunningOn::context() {
  LS_CHECK(running, kInternal, "work is launched outside of RunningOn");
  return *running;
}

}  // namespace ls
