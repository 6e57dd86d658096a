#pragma once
// The greatest of several elements and where it stands, over a team of threads.
#include "core/backend/cuda/device/reduce.cuh"

namespace ls::ops::common {

/// An element and its place; none where the place is -1. NaN is the greatest, of equal ones the
/// earlier comes first.
template <class A>
struct Place {
  A x = 0;
  Index at = -1;
  __device__ bool before(const Place& o) const {
    if (at < 0 || o.at < 0) {
      return o.at < 0 && at >= 0;
    }
    const bool nan = x != x, other = o.x != o.x;
    if (nan != other) {
      return nan;
    }
    return !nan && x != o.x ? x > o.x : at < o.at;
  }
};

/// Place of the first of what the threads of a team have, -1 where nobody has one.
template <class A, class Team>
__device__ Index first_of(const Place<A>& mine, Team team) {
  constexpr Index kNowhere = Index{1} << 62;
  const bool nan = mine.at >= 0 && mine.x != mine.x;
  const bool any_nan = team.max(nan ? 1 : 0) != 0;
  const A top = team.max(mine.at >= 0 && !nan ? mine.x : static_cast<A>(-INFINITY));
  const bool has = mine.at >= 0 && (any_nan ? nan : mine.x == top);
  const Index at = -team.max(has ? -mine.at : -kNowhere);
  return at == kNowhere ? -1 : at;
}

}  // namespace ls::ops::common
