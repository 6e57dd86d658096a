#pragma once
#include "core/op/gives_y.h"

namespace ls::ops {

/// Running sums along an axis, each including its own element; from the end when `reverse`.
/// @shape  x, y [...]
/// @dtype  any float; sums in f64
/// @grad   exact: the running sums of the gradient the other way
struct Cumsum : TakesXGivesY {
  struct Attrs {
    int axis = -1;  ///< negative counts from the end
    bool reverse = false;
    void fields(auto&& f) const {
      f("axis", axis, "negative counts from the end");
      f("reverse", reverse, "from the end");
    }
  };
};

}  // namespace ls::ops
