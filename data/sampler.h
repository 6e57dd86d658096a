#pragma once
// Which examples make up which batch: a function of the step alone, so that a resumed run goes on
// with the batch that it would have had.
#include <vector>

#include "data/task.h"

namespace ls::data {

struct BatchPlan {
  Index slice = 0;
  Index length = 0;
  std::vector<Index> index;  ///< example number of each row of the global batch
};

class Sampler {
 public:
  /// `batch` is the global batch. @throws Error(Config) if it is below 1 or the split is empty
  Sampler(const Task& task, Split split, Index batch, std::uint64_t seed);

  Index batch() const { return batch_; }
  /// Batches in one pass over the finite sets, the last of each slice possibly smaller; 0 when
  /// fresh examples never end.
  Index batches() const { return batches_; }
  /// kValid and kTest: one pass in order, step < batches(). kTrain: any step >= 0.
  BatchPlan plan(Index step) const;

 private:
  const Task& task_;
  Split split_;
  Order order_;
  Index batch_, batches_ = 0;
  std::uint64_t seed_;
  std::vector<Index> first_batch_;    // of each slice within an epoch
  std::vector<double> weight_until_;  // running sum of weights
};

}  // namespace ls::data
