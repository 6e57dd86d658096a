#pragma once
// What an evaluation of long sequences takes, said before it is begun.
#include <map>
#include <optional>
#include <string>

#include "data/task.h"
#include "experiments/run_config.h"

namespace ls::experiments {

struct Needs {
  double bytes = 0;    ///< of the process, or on the model's device
  double seconds = 0;  ///< of one batch
};

/// Predicts from what the ops declare that they do and from a short trial, three segments of zeros:
/// states that grow make each segment dearer than the last, by what the third cost more than the
/// second.
class NeedsModel {
 public:
  /// Runs the trial on so many rows.
  NeedsModel(layers::Model& model, const ScanConfig& scan, Index segment, Index rows);
  /// Of a batch of as many rows, `length` tokens each.
  Needs of(Index length) const;
  /// Operations that the ops declare for it.
  double flops(Index length) const;

 private:
  struct Work {
    double flops = 0, more = 0;  ///< of a segment, and by how much that of the next one is larger
    double seconds_per_flop = 0;
  };
  Index segment_, rows_;
  bool causal_ = true, grows_ = false;
  double first_flops_ = 0;                ///< that the first segment has fewer of
  std::map<std::string, Work> ops_;       ///< those that declare what they do, in the third segment
  double other_seconds_ = 0;              ///< of a segment
  double trial_bytes_ = 0, growing_ = 0;  ///< at the trial's end; of a row's states, by the token
};

/// Which slices of a split are run, and on how many of their examples.
struct SlicePlan {
  Index examples = 0;   ///< fewer than the slice has where eval.max_tokens asks for it
  std::string not_run;  ///< why it is not run, with what it would take; empty: it is
};
/// The same on every rank.
std::vector<SlicePlan> plan_slices(layers::Model& model, const std::vector<data::Slice>& slices,
                                   const RunConfig& config, const parallel::Mesh& mesh);

}  // namespace ls::experiments
