#pragma once
// One worker of a sweep: takes a run that nobody works on, trains it, publishes it, until none is
// left. Workers know of one another by the folder alone.
#include "experiments/sweep/choice.h"
#include "experiments/sweep/lease.h"

namespace ls::experiments {

struct WorkerOptions {
  double lease_seconds = 60;  ///< after which a worker that stands still is replaced
  bool resume = false;        ///< half-done runs go on from their checkpoints
  bool quiet = true;          ///< shows no progress
};

/// Works until every run of the plan has ended, or a signal asks to stop. Returns how many it
/// ended.
/// @throws Error where the folder cannot be written to; a run's own error is recorded with it
Index work_on(const SweepPlan& plan, const WorkerOptions& options);

}  // namespace ls::experiments
