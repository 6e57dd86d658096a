#pragma once
// One update: forward and backward passes, the sum over ranks, clipping, the update rule.
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "data/batcher.h"
#include "experiments/recorded_step.h"
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

/// Updates are begun and finished in order. What decides one (loss, norm, clip factor, whether all
/// is finite) is known where the parameters lie, and one that is not finite changes nothing and
/// keeps all later ones from it; so the host may begin some before it hears of the first.
class TrainStep {
 public:
  /// The part must outlive it.
  explicit TrainStep(const RunPart& part);

  /// Puts the update on the device, after those under way; on the processor it is done then. Called
  /// by every rank with its rows. A batch without a target leaves parameters and optimizer alone,
  /// and a parameter that no gradient reaches has a zero gradient, on any number of ranks and
  /// pieces. The state's tensors are those after it; its counters stay. The state stays where it is
  /// while updates are under way.
  void begin(const data::Batch& batch, RunState& state);
  /// Begun and not finished.
  Index under_way() const { return std::ssize(under_way_); }
  /// How many may be: the same on every rank, so that all hear of an update at the same time.
  Index most_under_way() const { return most_under_way_; }
  /// Waits for the first that is under way, and counts it in the state.
  /// @throws Error(Numeric) when its loss or gradient is not finite, naming where that first
  /// appeared
  StepReport finish(RunState& state);
  /// Both, of the only one.
  StepReport run(const data::Batch& batch, RunState& state);

  /// Op name -> how its scan was computed in the first forward pass.
  const std::map<std::string, std::string>& forms() const { return forms_; }
  /// Updates that were replayed.
  Index replays() const { return replays_; }
  /// That the device's pool and that of recordings hold, of a device that has pools, else 0.
  Index device_bytes() const;
  /// Shapes that were recorded are recorded again. No update is under way.
  void record_anew();

 private:
  struct UnderWay {
    std::vector<data::Batch> pieces;
    std::vector<PieceStarts> starts;  // of the pieces, or none
    layers::ModelState before;        // states kept until then
    double lr = 0;
    Index tokens = 0;
    Download values;
  };
  using Segments = RecordedStep::Segments;
  /// To replay for this update, or null.
  RecordedStep* recorded(const UnderWay& u, RunState& state);
  std::unique_ptr<RecordedStep> record(const UnderWay& u, Index documents, RunState& state);
  /// Room for documents in a piece, for these and the batches to come.
  Index room_for_documents(const std::vector<data::Batch>& pieces);
  /// Carried states move to the recording's buffers.
  void go_on_from(const RecordedStep& recording, layers::ModelState& carried);
  /// What later updates need takes the place of what this one began from, unless it has stopped.
  void keep_carried(const layers::ModelState& buffers, const layers::ModelState& kept);
  /// Forward and backward passes as they come, not recorded; the states that pieces end in.
  std::vector<layers::ModelState> run_pieces(const UnderWay& u);
  /// Adds gradients of the sum of losses, and that sum and its labels to the step's values.
  StateGradients forward_backward(Segment& segment, const StateGradients& behind);
  layers::ModelState run(Segments& segments);
  layers::SeqOptions options() const;
  /// Where each row of this rank stands afterwards.
  std::vector<Index> positions_after(const UnderWay& u) const;
  /// Loss, labels and gradients become those of all ranks.
  void sum_over_ranks();
  /// The same in the order of the device's stream, without a look at them.
  void sum_on_stream();
  /// Gradients by parameter, contiguous; zero where none arrives.
  std::vector<Tensor> gathered_gradients();
  void sum_into_shards();
  void update(const Tensor& rate, RunState& state);
  /// The same of this rank's shards; all ranks' come to lie on all where parameters are whole.
  void update_shards(RunState& state);
  [[noreturn]] void fail(const UnderWay& u, bool loss_is_finite, const RunState& state);
  struct Origin {
    std::string text;  ///< "": nowhere
    Index passed = 0;  ///< values that were looked at before
  };
  /// Where a value that is not finite appears first on this rank when the update is computed again.
  /// Called by every rank.
  Origin origin_of_non_finite(const UnderWay& u);

  const RunPart& part_;
  std::unique_ptr<optim::Schedule> schedule_;
  std::optional<parallel::GradSync> grad_sync_;  // of several ranks
  std::map<std::string, std::string> forms_;
  const Index most_under_way_;
  Tensor values_;  // optim::StepValue, where the parameters lie
  std::deque<UnderWay> under_way_;
  std::shared_ptr<BlockPool> graph_memory_;
  std::map<StepShape, std::unique_ptr<RecordedStep>> shapes_;  // seen; null: once
  Index replays_ = 0;
  FirstStates first_;
  const SegmentPlan plan_;
  Index documents_ = 0;  // that recordings have room for in a piece
  bool recordable_, recorded_any_ = false;
};

}  // namespace ls::experiments
