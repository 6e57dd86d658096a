#pragma once
#include "core/op/op.h"

namespace ls::ops {

/// Rows of the last axis divided by their length |x|: x / sqrt(|x|^2 + eps) (kInside),
/// x / max(|x|, eps) (kMax) or x / (|x| + eps) (kOutside).
/// @shape  x [...,D] -> y [...,D]
/// @dtype  any float; computed in acc
/// @grad   exact; below eps of kMax the divisor is constant
struct L2Norm : TakesXGivesY {
  enum class Eps : std::uint8_t { kInside, kMax, kOutside };
  struct Attrs {
    double eps = 1e-6;
    Eps mode = Eps::kInside;
  };
};

}  // namespace ls::ops
