#pragma once
// Bounds of sizes in configs, beyond any machine: products of them stay within an Index.
#include "core/base/types.h"

namespace ls::data {

inline constexpr Index kMaxVocab = 1 << 24, kMaxLength = 1 << 30;

}  // namespace ls::data
