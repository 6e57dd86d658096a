#pragma once
// Batches as contiguous tensors, and the rows of them that belong to one rank.
#include <vector>

#include "core/tensor/tensor.h"
#include "data/sampler.h"
#include "data/task.h"

namespace ls::data {

struct Batch {
  Index step = 0;
  Index slice = 0;   ///< index into the task's slices
  Index length = 0;  ///< T
  /// Rows first_row .. first_row + rows - 1 of the global batch are here; rows may be 0 where there
  /// are more ranks than rows.
  Index first_row = 0, rows = 0, global_rows = 0;
  Tensor tokens;   ///< i64 [rows,T], or undefined
  Tensor vectors;  ///< f32 [rows,T,E], or undefined
  Tensor labels;   ///< i64 [rows,T], kIgnore where there is none
  Tensor tags;     ///< u8 [rows,T], or undefined for a task without tags
  Tensor legal;    ///< i64 [rows,T] of bits, or undefined for a task without legal sets
  /// Per row the ascending positions at which a document begins (layers::DocumentStarts); empty
  /// when no row has any.
  std::vector<std::vector<Index>> documents;
  /// Per row the tokens that are its example's, from the front on; what is behind them is read and
  /// means nothing. Empty: all tokens of all rows.
  std::vector<Index> used;
  bool continues = false;  ///< rows go on from the batch before: its final states are their first
  Index labelled = 0;      ///< labels in these rows

  Index used_of(Index row) const {
    return used.empty() ? length : used[static_cast<std::size_t>(row)];
  }
  /// n batches with nearly equal numbers of rows, one after the other; some may be empty.
  std::vector<Batch> pieces(Index n) const;
  /// Rows begin .. end - 1 of those here.
  Batch cut(Index begin, Index end) const;
  /// Tokens begin .. end - 1 of every row, with none of their documents.
  Batch stretch(Index begin, Index end) const;
};

/// First row of a batch of `rows` that belongs to a rank; rank = ranks gives the end.
inline Index first_row(Index rows, Index rank, Index ranks) {
  return rows * rank / ranks;
}

/// What a task has written into an example is what its info declares: labels and tokens in range,
/// tags that have names, document starts that ascend, labels in their legal sets. @throws
/// Error(Internal) naming the position
void check_example(const TaskInfo& info, const ExampleKey& key, const ExampleView& example);

struct BatcherOptions {
  Split split = Split::kTrain;
  Index batch = 1;         ///< global: over all ranks
  std::uint64_t seed = 0;  ///< of the order of batches
  Index rank = 0, ranks = 1;
};

/// Makes any batch by its number. The task must outlive it.
class Batcher {
 public:
  /// @throws Error(Config) as Sampler
  Batcher(const Task& task, const BatcherOptions& options);

  /// As Sampler::batches: 0 when training examples never end.
  Index batches() const { return sampler_.batches(); }
  /// Which of the slices a batch is of.
  Index slice(Index step) const { return sampler_.plan(step).slice; }
  /// Safe to call from several threads at once.
  Batch make(Index step) const;

 private:
  const Task& task_;
  BatcherOptions options_;
  Sampler sampler_;
};

}  // namespace ls::data
