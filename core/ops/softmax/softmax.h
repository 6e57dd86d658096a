#pragma once

namespace ls::ops {

/// Softmax of scale * x over the last axis, or its logarithm, and lse = log sum exp(scale * x).
/// @shape  x [...,D] -> y [...,D], lse [...]
/// @dtype  x, y any one float; lse acc; computed in acc
/// @grad   exact, through lse too. A row of -inf alone gives NaN, as the definition does
struct Softmax {
  template <class T>
  struct In {
    T x;
  };
  template <class T>
  struct Out {
    T y, lse;
  };
  struct Attrs {
    double scale = 1;
    bool log = false;
    void fields(auto&& f) const {
      f("scale", scale, "factor on x");
      f("log", log, "the logarithm of it");
    }
  };
};

}  // namespace ls::ops
