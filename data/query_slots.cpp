#include "data/query_slots.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace ls::data {

std::vector<Index> draw_slots(Rng& rng, Index space, Index k, double power_a) {
  std::vector<std::pair<double, Index>> finish(static_cast<std::size_t>(space));
  for (Index i = 0; i < space; ++i) {
    const double slowness = std::pow(static_cast<double>(i + 1), 1 - power_a);
    finish[static_cast<std::size_t>(i)] = {-std::log1p(-rng.uniform()) * slowness, i};
  }
  std::partial_sort(finish.begin(), finish.begin() + k, finish.end());
  std::vector<Index> slots(static_cast<std::size_t>(k));
  for (std::size_t j = 0; j < slots.size(); ++j) {
    slots[j] = finish[j].second;
  }
  return slots;
}

}  // namespace ls::data
