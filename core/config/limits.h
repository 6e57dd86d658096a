#pragma once
// What numbers in configs may be where a field says nothing else.
#include "core/base/types.h"

namespace ls {

/// What an integer field without `max` allows, to both sides: the product of two such sizes fits
/// an Index.
inline constexpr Index kMaxInteger = (Index{1} << 31) - 1;
/// The `max` of fields that hold any number: what a double, and so JSON, holds exactly.
inline constexpr double kMaxSeed = 0x1p53;

}  // namespace ls
