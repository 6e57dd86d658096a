#pragma once
// Which examples make up which batch: a function of the step alone, so that a resumed run goes on
// with the batch that it would have had.
#include <vector>

#include "data/task.h"

namespace ls::data {

struct BatchPlan {
  Index slice = 0;
  Index length = 0;
  Index before = 0;  ///< tokens of each row in earlier batches, of a stream
  /// Example number of each row of the global batch; -1 for a row that has come to its end.
  std::vector<Index> index;
  bool continues = false;  ///< rows go on from the batch before
};

class Sampler {
 public:
  /// `batch` is the global batch. @throws Error(Config) if it is below 1 or the split is empty
  Sampler(const Task& task, Split split, Index batch, std::uint64_t seed);

  Index batch() const { return batch_; }
  /// Batches in one pass over the finite sets, the last of each slice possibly smaller; 0 when
  /// fresh examples never end.
  Index batches() const { return batches_; }
  /// kValid and kTest: one pass in order, step < batches(); of a slice that is carried row r of R
  /// has the examples n r / R .. n (r + 1) / R - 1 of n, one a batch. kTrain: any step >= 0.
  BatchPlan plan(Index step) const;

 private:
  /// Batches that hold the examples of a finite slice.
  Index batches_of(const Slice& slice) const;

  const Task& task_;
  Split split_;
  Order order_;
  Index batch_, batches_ = 0;
  std::uint64_t seed_;
  std::vector<Index> first_batch_;    // of each slice within an epoch
  std::vector<double> weight_until_;  // running sum of weights
};

}  // namespace ls::data
