#pragma once

namespace ls::ops {

/// Forget gate bounded from below, f = low + (1 - low) sigmoid(x): its log, and 1 - f, what is
/// written where f is kept.
/// @shape  x [...] -> g = log f [...], k = 1 - f [...]
/// @dtype  x, k any one float; g acc; computed in acc, neither by a difference of near numbers
/// @grad   exact, through both
/// @throws Error(Config) unless 0 <= low < 1
/// @source Qin 2404.07904 (HGRN2)
struct SigmoidGate {
  template <class T>
  struct In {
    T x;
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
