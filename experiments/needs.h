#pragma once
// What an evaluation of long sequences takes, said before it is begun.
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/comm/comm.h"
#include "data/task.h"
#include "experiments/run_config.h"

namespace ls::experiments {

struct Needs {
  double bytes = 0;    ///< of the process, or on the model's device
  double seconds = 0;  ///< of one batch
};

/// Predicts from what the ops declare that they do and from a trial on zeros, which stays within
/// the limits itself: segments until windows are full, at least three, and two behind a cache of
/// the longest length. States that grow make each segment dearer than the last, by what the last
/// one of the trial cost more than the one before; how fast the ops are is taken to change evenly
/// to the far end.
class NeedsModel {
 public:
  /// Runs the trial on so many rows; every rank, which all see the same.
  /// @param segment  tokens of each row at once
  /// @param longest  of the lengths that will be asked for
  NeedsModel(layers::Model& model, const ScanConfig& scan, Index segment, Index rows, Index longest,
             const Needs& limits, Communicator& comm);
  /// Of a batch of as many rows, `length` tokens each.
  Needs of(Index length) const;
  /// Operations that the ops declare for it.
  double flops(Index length) const;

 private:
  /// By name of op; "" is the time outside those that declare what they do.
  struct Work {
    double flops = 0, seconds = 0;
  };
  using Works = std::map<std::string, Work>;
  class Trial;

  double flops_of(const std::string& op, double segment) const;

  Index segment_, rows_, longest_;
  Index tokens_ = 0;  ///< of a segment of the trial: fewer where more would be above a limit
  bool causal_ = true, grows_ = false;
  std::vector<Works> near_;  ///< segments from the front on
  Works far_;                ///< one that ends at the longest length; empty: none was run
  double held_ = 0;          ///< bytes before the trial
  double working_ = 0;       ///< of a segment of the trial
  double growing_ = 0;       ///< of all rows' states, by the token
};

/// Which slices of a split are run, and on how many of their examples.
struct SlicePlan {
  Index examples = 0;   ///< fewer than the slice has where eval.max_tokens asks for it
  std::string not_run;  ///< why it is not run, with what it would take; empty: it is
};
/// Why batches of `rows` rows, one of each length behind the other, would take more than
/// config.eval or the machine allows; empty: they would not.
std::string above_limits(layers::Model& model, const std::vector<Index>& lengths, Index rows,
                         const RunConfig& config, Communicator& comm);
/// The same on every rank.
std::vector<SlicePlan> plan_slices(layers::Model& model, const std::vector<data::Slice>& slices,
                                   const RunConfig& config, const parallel::Mesh& mesh);

}  // namespace ls::experiments
