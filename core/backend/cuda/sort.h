#pragma once
// Sorting on the GPU, the same order each time.
#include <cstdint>

#include "core/base/types.h"

namespace ls::cuda {

/// `sorted` are the keys in rising order, `order` where each stood, equal ones in their order. Keys
/// lie in 0 .. below.
void sort_keys(const std::uint32_t* keys, Index n, Index below, std::uint32_t* sorted,
               std::int32_t* order);

}  // namespace ls::cuda
