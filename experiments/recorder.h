#pragma once
// What a training run tells while it goes on: metrics.jsonl, progress, the history of evaluations.
#include "data/prefetch.h"
#include "experiments/progress.h"
#include "experiments/train_step.h"

namespace ls::experiments {

class Recorder {
 public:
  /// Rank 0 writes config.yaml and, for a run from its start, an empty metrics.jsonl. Part and
  /// state must outlive it.
  Recorder(const RunPart& part, RunState& state);

  /// After an update that took `seconds`; `data` is asked how long it let the trainer wait.
  void update(const StepReport& report, double seconds, data::Prefetcher& data);
  void evaluation(Evaluation e);
  /// Was the model evaluated on this split after the last update?
  bool evaluated(data::Split split) const;
  /// Ends the progress bar.
  void finish(bool complete);
  /// What is reported of the training: speed, waits, loss and forms.
  void fill(RunResult& result) const;

 private:
  void write_line(const StepReport& report);

  const RunPart& part_;
  RunState& state_;
  Progress progress_;
  const Index first_tokens_;
  Index told_tokens_;
  double seconds_ = 0;  // of training in this sitting
};

/// The line of metrics.jsonl that tells of an evaluation.
std::string evaluation_line(const Evaluation& e, double train_seconds);

/// Writes metrics.jsonl anew for a run that goes on from `state`: the lines that it has told, and
/// its history. Called by the process that writes.
void rebuild_metrics(const RunPart& part, RunState& state);

}  // namespace ls::experiments
