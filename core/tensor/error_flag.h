#pragma once
// How a kernel says that a value is bad: the host reads it later, the first one counts. Free of
// packages, so that device code can include it.
#include <cstdint>

namespace ls {

struct ErrorFlag {
  std::int32_t source = 0;    ///< 0: nothing; else a number of error_source
  std::int64_t position = 0;  ///< of the element, row-major
  std::int64_t value = 0;
};

/// Of kernels, from any of their threads.
#ifndef __CUDA_ARCH__
inline void raise_error(ErrorFlag* flag, std::int32_t source, std::int64_t position,
                        std::int64_t value) {
  std::int32_t none = 0;
  if (__atomic_compare_exchange_n(&flag->source, &none, source, false, __ATOMIC_RELAXED,
                                  __ATOMIC_RELAXED)) {
    flag->position = position;
    flag->value = value;
  }
}
#else
__device__ inline void raise_error(ErrorFlag* flag, std::int32_t source, std::int64_t position,
                                   std::int64_t value) {
  if (atomicCAS(&flag->source, 0, source) == 0) {
    flag->position = position;
    flag->value = value;
  }
}
#endif

}  // namespace ls
