#pragma once
#include "core/op/gives_y.h"

namespace ls::ops {

/// y = base + x (factor + gain), factors per token and constant ones, each for a group of channels:
/// steps of heads, skip connections, shares of a token shift.
/// @shape  x [...,D], factor [...,G], gain [E], base [...,D] -> y [...,D]; factor, gain or both,
///         base or not (0). G and E divide D: channel c has factor c / (D / G) and gain c / (D / E)
/// @dtype  x, base, y any one float; factor and gain acc; computed in acc
/// @grad   exact; the gain's is summed over rows in acc
/// @throws Error(Shape) without factor and gain, or when their numbers do not divide D
struct ScaleAdd : GivesY {
  template <class T>
  struct In {
    T x, factor, gain, base;
  };
  struct Attrs {};
};

}  // namespace ls::ops
