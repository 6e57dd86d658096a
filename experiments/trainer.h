#pragma once
// One model, one seed: the training loop.
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/profile.h"
#include "experiments/recorder.h"
#include "experiments/run_state.h"
#include "experiments/train_step.h"

namespace ls::experiments {

class Trainer {
 public:
  /// `directory` gets metrics.jsonl, config.yaml, run.h5, checkpoints/ and, of a build of a
  /// modified checkout, tree.patch; "" for none.
  /// `config` outlives it.
  /// @throws Error(Config) when config and task do not fit
  Trainer(const RunConfig& config, std::size_t model, std::uint64_t seed, std::string directory,
          Communicator& comm, Device& device = cpu(), PartOptions options = {});
  Trainer(RunConfig&&, std::size_t, std::uint64_t, std::string, Communicator&) = delete;

  /// Continues from the newest checkpoint in the directory, if there is one; on any number of
  /// ranks, which all see the directory. `earlier`: the result of the same part after fewer
  /// updates.
  /// @throws as restore_state; Error(Io) where there is such a result and no checkpoint of it
  void resume(const ResumeOptions& options, const std::optional<RunResult>& earlier);
  /// Trains to the end, or until a stop is requested.
  RunResult run();

  /// One update; the loss before it, NaN where the batch has no target.
  /// @throws as TrainStep::finish
  double step() { return steps(1); }
  /// As many, as run() does them: on a device the host begins some before the first is done. The
  /// last loss.
  double steps(Index n);
  /// nullopt when a stop was requested before it was done.
  std::optional<Evaluation> evaluate(data::Split split);
  /// As save_state, unless that was the last thing done.
  void save();

  layers::Model& model() { return *part_.model; }
  Index tokens_done() const { return state_.tokens; }
  const TrainStep& train_step() const { return step_; }
  /// Of the optimizer's states on this rank.
  Index optimizer_bytes() const;
  /// As many updates, profiled where their work is done: marks of a device's queue are recorded
  /// with the steps, which costs a little.
  std::vector<profile::Entry> profiled_steps(Index n);

 private:
  /// Puts the next update on the device.
  void begin();
  /// Finishes updates until `most` are under way; tells each, where there is one to be told.
  void finish(Index most, Recorder* recorder = nullptr);
  /// Updates, evaluations and checkpoints up to the last update; false when a stop was requested.
  bool train(Recorder& recorder);
  /// Unless it was done after this update already; false when a stop was requested.
  bool record_evaluation(Recorder& recorder, data::Split split);
  void write_record(const RunResult& result);
  bool same_slices(const Evaluation& e, Index step) const;
  bool has_test() const {
    return part_.options.test && !part_.task->slices(data::Split::kTest).empty();
  }
  RunResult result(const Recorder& recorder, bool complete);
  /// Brings the state's wall time up to now.
  void take_time();

  using Clock = std::chrono::steady_clock;
  RunPart part_;
  RunState state_;
  TrainStep step_;
  StepReport last_;
  data::Batcher batcher_;
  std::unique_ptr<data::Prefetcher> prefetcher_;  // made at the first step, so that it starts there
  Index saved_step_ = -1;
  std::optional<layers::StateBytes> state_bytes_;  ///< see RunResult::state
  Clock::time_point since_ = Clock::now();         // what the state's wall time does not count yet
  Clock::time_point lap_ = since_;  // what its training time does not count yet, while training
};

}  // namespace ls::experiments
