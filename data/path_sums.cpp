#include "data/path_sums.h"

#include <algorithm>
#include <cmath>

#include "core/base/error.h"

namespace ls::data {

PathSums::PathSums(std::vector<Edge> edges, std::vector<double> last, Index longest)
    : edges_(std::move(edges)), states_(std::ssize(last)), sums_(std::move(last)) {
  std::ranges::stable_sort(edges_, {}, &Edge::from);
  for (Index state = 0; state <= states_; ++state) {
    const auto begin = std::ranges::lower_bound(edges_, state, {}, &Edge::from);
    first_.push_back(static_cast<std::size_t>(begin - edges_.begin()));
  }
  const auto states = static_cast<std::size_t>(states_);
  sums_.resize(static_cast<std::size_t>(longest + 1) * states);
  log_scale_.assign(1, 0);
  for (Index length = 1; length <= longest; ++length) {
    const std::span<double> row(sums_.data() + length * states_, states);
    for (const Edge& e : edges_) {
      row[static_cast<std::size_t>(e.from)] += e.weight * at(length - 1, e.to);
    }
    const double most = *std::ranges::max_element(row);
    const double scale = most > 0 ? most : 1;
    for (double& sum : row) {
      sum /= scale;
    }
    log_scale_.push_back(log_scale_.back() + std::log(scale));
  }
}

double PathSums::log_sum(Index length, Index state) const {
  return std::log(at(length, state)) + log_scale_[static_cast<std::size_t>(length)];
}

const Edge& PathSums::draw(Rng& rng, Index length, Index state) const {
  const auto s = static_cast<std::size_t>(state);
  const std::span<const Edge> out(edges_.data() + first_[s], first_[s + 1] - first_[s]);
  double sum = 0;
  for (const Edge& e : out) {
    sum += e.weight * at(length - 1, e.to);
  }
  LS_CHECK(sum > 0, kInternal, "no path of {} edges from state {}", length, state);
  double left = rng.uniform() * sum;
  const Edge* chosen = nullptr;
  for (const Edge& e : out) {
    const double share = e.weight * at(length - 1, e.to);
    if (share > 0) {
      chosen = &e;
      if (left < share) {
        break;
      }
    }
    left -= share;
  }
  return *chosen;
}

}  // namespace ls::data
