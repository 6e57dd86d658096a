#pragma once

namespace ls::ops {

/// Forget gate bounded from below, f = low + (1 - low) sigmoid(x): its log, and 1 - f, what is
/// written where f is kept. The bound is the attribute, or `low` of each channel.
/// @shape  x [...,D], low [D] or absent, above 0 and below 1 -> g = log f [...,D], k = 1 - f
/// [...,D]
/// @dtype  x, k any one float; low, g acc; computed in acc, neither by a difference of near numbers
/// @grad   exact, of x and low through both
/// @throws Error(Config) unless 0 <= lower_bound < 1, and 0 where `low` is given
/// @source Qin 2404.07904 (HGRN2)
struct SigmoidGate {
  template <class T>
  struct In {
    T x, low;
  };
  template <class T>
  struct Out {
    T g, k;
  };
  struct Attrs {
    double lower_bound = 0;
    void fields(auto&& f) const { f("lower_bound", lower_bound, "least f"); }
  };
};

}  // namespace ls::ops
