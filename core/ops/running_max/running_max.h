#pragma once

namespace ls::ops {

/// Two sums of exponentials at one maximum: what stands times exp(-a) and exp(-b), the first to be
/// multiplied by exp(g), is brought to exp(-m).
///   m = max(g + a, b),  earlier = exp(g + a - m),  later = exp(b - m)
/// @shape  g, a, b [...] -> m, earlier, later [...], all the same
/// @dtype  any one float
/// @grad   exact; where g + a = b, that of m goes to b
/// @source the stabilised states of Beck 2405.04517, over stretches in place of tokens
struct RunningMax {
  template <class T>
  struct In {
    T g, a, b;
  };
  template <class T>
  struct Out {
    T m, earlier, later;
  };
  struct Attrs {};
};

}  // namespace ls::ops
