#pragma once
// Which rate a cell is given: the best by validation after the last update, on the choice seeds.
#include <vector>

#include "experiments/sweep/folder.h"

namespace ls::experiments {

struct RateChoice {
  /// false while runs on the choice seeds have not ended.
  bool known = false;
  Index rate = -1;    ///< -1: every rate failed
  bool edge = false;  ///< lowest or highest of the grid: a better one may lie beyond
};
/// A rate counts when its runs on all choice seeds finished. Of equal values of the task's first
/// metric the lower loss decides, then the lower rate.
RateChoice choose_rate(const SweepPlan& plan, const SweepCell& cell, const SweepFolder& folder);

/// What is still to be done now: runs that have not ended, once each, in the order of the plan.
struct OpenRuns {
  std::vector<const SweepRun*> runs;
  Index later = 0;  ///< runs that wait for a choice
};
OpenRuns open_runs(const SweepPlan& plan, const SweepFolder& folder);

}  // namespace ls::experiments
