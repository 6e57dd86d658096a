#include "core/base/types.h"

#include "core/base/error.h"

namespace ls {
namespace {
constexpr std::string_view kNames[kNumDTypes] = {"f64", "f32", "bf16", "f16",
                                                 "i64", "i32", "u8",   "bool"};
}

std::string_view dtype_name(DType t) {
  return kNames[static_cast<int>(t)];
}

DType parse_dtype(std::string_view name) {
  for (int i = 0; i < kNumDTypes; ++i) {
    if (kNames[i] == name) {
      return static_cast<DType>(i);
    }
  }
  LS_FAIL(kConfig, "unknown dtype '{}'; expected one of f64, f32, bf16, f16, i64, i32, u8, bool",
          std::string(name));
}
}  // namespace ls
