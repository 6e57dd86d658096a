#pragma once
#include "core/base/types.h"
#include "core/op/gives_y.h"

namespace ls::ops {

/// Adds rows into `rows` rows of zeros: y[index] += x; rows with index -1 are left out. The adjoint
/// of GatherRows.
/// @shape  x [...,D], index [...] -> y [rows,D]
/// @dtype  x, y any one float; sums in acc, in the order of the rows of x
/// @grad   exact
/// @throws Error(Shape) on an index outside -1 .. rows-1
struct ScatterAddRows : GivesY {
  template <class T>
  struct In {
    T x, index;
  };
  struct Attrs {
    Index rows = 0;
    void fields(auto&& f) const { f("rows", rows, "of y"); }
  };
};

}  // namespace ls::ops
