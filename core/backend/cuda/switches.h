#pragma once
// Which kernels may serve, beside what their tests on shapes say.
#include <atomic>
#include <cstdlib>
#include <string_view>

namespace ls::cuda {

/// LONGSCAN_CUDA_PORTABLE=1: the kernels that run on every GPU, also where there are faster ones.
inline bool portable_only() {
  static const bool on = [] {
    const char* const value = std::getenv("LONGSCAN_CUDA_PORTABLE");
    return value && std::string_view(value) == "1";
  }();
  return on;
}
/// Kernels for sm_90a may run.
inline bool hopper(int generation) {
  return generation == 90 && !portable_only();
}

/// Products of f32 factors that matrix libraries make are of factors rounded to TF32 (10 bits of
/// fraction) while this is set.
inline std::atomic<bool> tf32_products = false;

}  // namespace ls::cuda
