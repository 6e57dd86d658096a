#pragma once
// What `longscan report` shows: runs and sweeps, from their folders.
#include <string>
#include <utility>
#include <vector>

#include "experiments/result.h"

namespace ls::experiments {

struct ReportedRun {
  std::string name;    ///< of the run's folder, below its group's
  std::string path;    ///< of the folder
  std::string anchor;  ///< of its place in the page
  RunResult result;
  std::string error;                             ///< of a failed one, whose result is empty
  std::vector<std::pair<Index, double>> losses;  ///< of training, by update
  bool chosen = true;  ///< one that is reported: not on a choice seed, not of another rate
  bool edge = false;   ///< its rate lies at the end of the grid
  std::string rate;
  std::vector<std::string> axes;  ///< by ReportGroup::axes; "" where it is another model's

  bool finished() const { return error.empty(); }
  /// What is reported: the test after the last update where there is one, else the validation;
  /// nullptr where there is neither.
  const Evaluation* reported() const;
};

/// A sweep, or the models and seeds of one `train`.
struct ReportGroup {
  std::string name, directory;
  bool sweep = false;
  std::vector<std::string> axes;   ///< columns, as the sweep's table has them
  std::vector<ReportedRun> runs;   ///< that have ended
  std::vector<std::string> notes;  ///< what is missing, failed or mixed
};

/// The sweep in a folder, by its results.csv.
ReportGroup load_sweep(const std::string& directory);
/// Sweeps and runs in folders and below them. @throws Error(Io) naming a folder without any
std::vector<ReportGroup> collect_groups(const std::vector<std::string>& directories);

}  // namespace ls::experiments
