#pragma once
#include "core/op/gives_y.h"

namespace ls::ops {

/// Rows by index: y = x[index]; index -1 gives a row of zeros.
/// @shape  x [N,D], index [...] -> y [...,D]
/// @dtype  x, y any one float
/// @grad   exact; rows named several times add up, in acc
/// @throws Error(Shape) on an index outside -1 .. N-1
struct GatherRows : GivesY {
  template <class T>
  struct In {
    T x, index;
  };
  struct Attrs {};
};

}  // namespace ls::ops
