#pragma once
// Sums over the paths of a weighted automaton, to draw whole paths as if all were listed with their
// weights: no rejection, however rare the paths that end as they must.
#include <span>
#include <vector>

#include "core/base/rng.h"
#include "core/base/types.h"

namespace ls::data {

struct Edge {
  Index from = 0, to = 0, symbol = 0;
  double weight = 1;
};

class PathSums {
 public:
  /// Most sums, (longest + 1) times states: 128 MiB.
  static constexpr Index kMostSums = Index{1} << 24;

  /// Paths of up to `longest` edges that end with the weights `last`, one for each state.
  PathSums(std::vector<Edge> edges, std::vector<double> last, Index longest);

  /// Natural logarithm of the sum of weights of the paths of `length` edges from a state; -infinity
  /// where there is none.
  double log_sum(Index length, Index state) const;
  /// The first edge of a path of `length` edges from a state, drawn by its share of the sum.
  const Edge& draw(Rng& rng, Index length, Index state) const;

 private:
  double at(Index length, Index state) const {
    return sums_[static_cast<std::size_t>(length * states_ + state)];
  }
  std::vector<Edge> edges_;         // by `from`
  std::vector<std::size_t> first_;  // of each state, and the end
  Index states_;
  std::vector<double> sums_;       // [longest + 1, states], each length scaled to a greatest of 1
  std::vector<double> log_scale_;  // of each length
};

}  // namespace ls::data
