#pragma once

namespace ls::ops {

/// Residual sum and its norm in one pass:
///   sum = residual + x,   y = sum / sqrt(mean(sum^2) + eps) * weight.
/// @shape  x, residual [...,D], weight [D] -> sum, y [...,D], rstd [...]
/// @dtype  x, residual, sum, y any one float; weight and rstd acc; computed in acc, on the rounded
///         sum
/// @grad   exact, none through rstd; the weight's is summed over rows in acc
struct AddRmsNorm {
  template <class T>
  struct In {
    T x, residual, weight;
  };
  template <class T>
  struct Out {
    T sum, y, rstd;
  };
  struct Attrs {
    double eps = 1e-5;
    void fields(auto&& f) const { f("eps", eps, "added to the mean of squares"); }
  };
};

}  // namespace ls::ops
