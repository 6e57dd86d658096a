#pragma once
#include "core/base/types.h"
#include "core/op/gives_y.h"

namespace ls::ops {

/// Rows of a table: y = scale * weight[ids]; the gradient adds over repeated ids.
/// @shape  weight [V,D], ids [...] -> y [...,D]
/// @throws Error(Shape) on an id outside 0 .. V-1
/// @grad   of weight, in acc; the row padding_idx (-1: none) has none
struct Embedding : GivesY {
  template <class T>
  struct In {
    T weight, ids;
  };
  struct Attrs {
    double scale = 1;
    Index padding_idx = -1;
    void fields(auto&& f) const {
      f("scale", scale, "factor on rows");
      f("padding_idx", padding_idx, "row without a gradient; -1: none");
    }
  };
};

}  // namespace ls::ops
