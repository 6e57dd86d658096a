#pragma once
#include "core/op/gives_y.h"

namespace ls::ops {

/// Dense projection: y = x W^T + b.
/// @shape  x [...,I], weight [O,I], bias [O] or absent -> y [...,O]
/// @dtype  x, weight, y any one float; bias acc; sums in acc
/// @grad   exact; weight and bias gradients are summed over rows and returned in acc
/// @cost   2 * rows * I * O flop
struct Linear : GivesY {
  template <class T>
  struct In {
    T x, weight, bias;
  };
  struct Attrs {};
};

}  // namespace ls::ops
