#pragma once
#include "core/op/gives_y.h"

namespace ls::ops {

/// Elementwise product y = a * b.
/// @shape  a, b, y [...], all the same
/// @dtype  any one float
/// @grad   exact
struct Mul : GivesY {
  template <class T>
  struct In {
    T a, b;
  };
  struct Attrs {};
};

}  // namespace ls::ops
