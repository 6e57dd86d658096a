#pragma once
// What a sweep will take, before it is started.
#include <string>

#include "experiments/sweep/plan.h"

namespace ls::experiments {

struct SweepEstimate {
  Index runs = 0, cells = 0, choice_runs = 0;
  double tokens = 0;   ///< trained on
  double seconds = 0;  ///< on as many workers
  int workers = 1;
  double disk = 0, working = 0;  ///< bytes at the end, and at most while runs are under way
  Index files = 0;               ///< at the end, folders left out
  bool sampled = false;          ///< not every cell was tried
};

/// Trains some updates of each cell, of many cells of some, on as many threads as a worker has.
SweepEstimate estimate(const SweepPlan& plan, int workers);
std::string estimate_text(const SweepEstimate& e);

}  // namespace ls::experiments
