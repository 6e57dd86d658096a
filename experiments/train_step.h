#pragma once
// One update: forward and backward passes, the sum over ranks, clipping, the update rule.
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/batcher.h"
#include "experiments/run_state.h"
#include "parallel/grad_sync.h"

namespace ls::experiments {

struct StepReport {
  /// False: the whole batch has no target, so there was no update; no loss and no norm either.
  bool updated = false;
  double loss = 0;           ///< before the update, mean over the labels of all ranks
  double gradient_norm = 0;  ///< of that mean, before clipping
  double lr = 0;
};

class TrainStep {
 public:
  /// The part must outlive it.
  explicit TrainStep(const RunPart& part);

  /// Called by every rank with its rows. A batch without a target leaves parameters and optimizer
  /// alone, and a parameter that no gradient reaches has a zero gradient, on any number of ranks
  /// and pieces. @throws Error(Numeric) when loss or gradient is not finite,
  /// naming where that first appeared
  StepReport run(const data::Batch& batch, RunState& state);
  /// Op name -> how its scan was computed in the first forward pass.
  const std::map<std::string, std::string>& forms() const { return forms_; }

 private:
  /// Adds gradients of the sum of losses, and that sum and its labels to the step's values.
  /// `carried` moves on to the end of the batch.
  void forward_backward(const data::Batch& batch, layers::ModelState& carried,
                        bool check_finite = false);
  /// Loss and labels of all ranks; returns the labels.
  double gather_loss(const std::vector<data::Batch>& pieces);
  /// Gradients by parameter, contiguous, summed over ranks; zero where none arrives.
  std::vector<Tensor> gathered_gradients();
  /// The update of a batch whose pieces have run; fills loss and norm of the report. `before`: the
  /// carried states at the start of the batch.
  void apply(const std::vector<data::Batch>& pieces, const layers::ModelState& before,
             RunState& state, StepReport& report);
  /// Where a value that is not finite appears first on this rank when the update is computed again;
  /// "" when nowhere.
  std::string origin_of_non_finite(const std::vector<data::Batch>& pieces,
                                   layers::ModelState carried);

  const RunPart& part_;
  std::unique_ptr<optim::Schedule> schedule_;
  std::optional<parallel::GradSync> grad_sync_;  // of several ranks
  std::map<std::string, std::string> forms_;
  Tensor values_;  // optim::StepValue, where the parameters lie
};

}  // namespace ls::experiments
