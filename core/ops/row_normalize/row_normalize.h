#pragma once
#include "core/op/gives_y.h"

namespace ls::ops {

/// Divides the leading channels by the last: y_i = x_i / (x_{D-1} + eps), i < D-1. The last step of
/// normalised linear attention, whose values carry a column of ones.
/// @shape  x [...,D] -> y [...,D-1]
/// @dtype  any float; computed in acc
/// @grad   exact; a zero denominator gives Inf as the definition does
struct RowNormalize : TakesXGivesY {
  struct Attrs {
    double eps = 1e-6;
    void fields(auto&& f) const { f("eps", eps, "added to the divisor"); }
  };
};

}  // namespace ls::ops
