#pragma once
#include "core/base/types.h"

namespace ls::ops {

/// The k greatest elements of each row, greatest first, with their places; of equal ones the
/// earlier first. NaN counts as the greatest number.
/// @shape  x [...,D] -> values [...,k], index [...,k]
/// @dtype  x, values any one float; index i64
/// @grad   exact in the values
/// @throws Error(Shape) unless 1 <= k <= D
struct TopK {
  template <class T>
  struct In {
    T x;
  };
  template <class T>
  struct Out {
    T values, index;
  };
  struct Attrs {
    Index k = 1;
    void fields(auto&& f) const { f("k", k, "elements of each row"); }
  };
};

}  // namespace ls::ops
