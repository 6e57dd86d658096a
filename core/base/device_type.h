#pragma once
// Kinds of devices, by which kernels are found.
#include "core/base/enum_names.h"

namespace ls {

enum class DeviceType : std::uint8_t { kCpu, kCuda, kStandIn };
inline constexpr int kNumDeviceTypes = 3;
template <>
struct EnumNames<DeviceType> {
  static constexpr std::string_view kKind = "device";
  static constexpr std::array<std::string_view, kNumDeviceTypes> kNames = {"cpu", "cuda",
                                                                           "stand-in"};
};

}  // namespace ls
