#pragma once
// Inputs of cases, f64 and i64.
#include <string_view>

#include "core/base/rng.h"
#include "core/tensor/tensor.h"

namespace ls::test {

/// Numbers that depend on the name and the order of the calls only.
class Draw {
 public:
  explicit Draw(std::string_view name) : rng_(11, name) {}
  Tensor normal(const Shape& shape, double scale = 1);
  Tensor uniform(const Shape& shape, double lo, double hi);
  /// Log-decays of every regime: exactly 0, a hair below, moderate, and so low that the decay is 0.
  Tensor extreme_gates(const Shape& shape);
  /// Rows of the last axis with length 1.
  Tensor unit_rows(const Shape& shape);
  /// i64, in [lo, hi).
  Tensor integers(const Shape& shape, Index lo, Index hi);
  /// Distinct numbers, a quarter and more apart, in random order.
  Tensor distinct(const Shape& shape);

 private:
  Rng rng_;
};

}  // namespace ls::test
