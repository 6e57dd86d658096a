#pragma once
// Where queries of associative recall stand.
#include <vector>

#include "core/base/rng.h"

namespace ls::data {

/// k of the places 0 .. space-1, drawn one after the other with weights (i+1)^(a-1) among those
/// left, by the exponential race of Efraimidis and Spirakis (2006).
std::vector<Index> draw_slots(Rng& rng, Index space, Index k, double power_a);

}  // namespace ls::data
