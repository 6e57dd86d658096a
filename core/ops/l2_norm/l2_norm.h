#pragma once
#include "core/base/types.h"
#include "core/op/gives_y.h"

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
    void fields(auto&& f) const {
      f("eps", eps, "keeps the divisor from zero");
      f("mode", mode, "where eps stands: sqrt(|x|^2 + eps), max(|x|, eps), |x| + eps");
    }
  };
};

}  // namespace ls::ops

template <>
struct ls::EnumNames<ls::ops::L2Norm::Eps> {
  static constexpr std::string_view kKind = "place of eps";
  static constexpr std::array<std::string_view, 3> kNames = {"inside", "max", "outside"};
};
