#pragma once
// Heads of x and of y that are multiplied with one another.
#include <algorithm>

#include "core/ops/decayed_sum/decayed_sum.h"

namespace ls::ops::decayed_sum {

/// -1 where absent.
template <class Shaped>
Index heads_of(const Shaped& t) {
  return t.defined() ? t.size(2) : -1;
}

/// The greatest number of heads: pair p reads head p / (pairs / n) of what has n.
template <class Shaped>
Index pairs(const DecayedSum::In<Shaped>& in, const DecayedSum::Attrs& a) {
  return std::max(
      {heads_of(in.x), heads_of(in.y), heads_of(in.g), heads_of(in.gk), heads_of(in.gv), a.heads});
}

}  // namespace ls::ops::decayed_sum
