#pragma once
// The process that a user starts: it has workers as processes of their own, shows how far they are,
// and writes what they found. It trains nothing, so that a run that brings its process down brings
// down nothing else.
#include <string>
#include <vector>

#include "experiments/sweep/worker.h"

namespace ls::experiments {

struct MonitorOptions {
  std::vector<std::string> command;  ///< of one worker, which ends when there is nothing left to do
  int workers = 1;
  double lease_seconds = 60;
};

/// Returns when every run has ended, no worker is left or a signal asked to stop.
void watch_workers(const SweepPlan& plan, const MonitorOptions& options);

/// In a worker: it ends when the process that started it does. 0: it was started by itself.
void end_with_parent(Index parent);

/// "sweep  7/24 runs, 1 failed, 2 running, ETA 3 min 05 s" and a line for each run under way,
/// within `columns`.
std::vector<std::string> live_table(const SweepPlan& plan, const SweepFolder& folder,
                                    const std::vector<LeaseNote>& running, double eta_seconds,
                                    int columns);

/// Writes results.csv and table.txt; the table in the terminal's width.
std::string write_results(const SweepPlan& plan, const SweepFolder& folder);

}  // namespace ls::experiments
