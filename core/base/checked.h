#pragma once
// Arithmetic on sizes that a user can make too large: an error where the result leaves 64 bits.
#include "core/base/error.h"
#include "core/base/types.h"

namespace ls {

/// @throws Error(Shape) when the product does not fit an Index
inline Index checked_mul(Index a, Index b) {
  Index product = 0;
  LS_CHECK(!__builtin_mul_overflow(a, b, &product), kShape,
           "{} times {} is beyond 64 bits; use smaller sizes", a, b);
  return product;
}
/// @throws Error(Shape) when the sum does not fit an Index
inline Index checked_add(Index a, Index b) {
  Index sum = 0;
  LS_CHECK(!__builtin_add_overflow(a, b, &sum), kShape,
           "the sum of {} and {} is beyond 64 bits; use smaller sizes", a, b);
  return sum;
}

}  // namespace ls
