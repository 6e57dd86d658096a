#pragma once
// Two runs side by side: what they differ in, and what came of it.
#include <string>
#include <utility>
#include <vector>

#include "experiments/result.h"

namespace ls::experiments {

/// A run of one model and seed that has ended, from its folder.
struct ComparedRun {
  std::string path;
  RunResult result;
  std::vector<std::pair<Index, double>>
      losses;  ///< of training, by update, as metrics.jsonl has them
};
/// `path`: a folder with run.h5, or that file.
/// @throws Error(Io) where there is none, with the folders below that have one
ComparedRun load_compared(const std::string& path);

/// The fields that differ, facts of build and machine that differ, the last evaluations and the
/// curves, within `width` columns where that is not 0.
std::string comparison(const ComparedRun& a, const ComparedRun& b, int width = 0);
/// Draws the curves of both into PATH.svg. Its path, or "" with a warning.
std::string comparison_figure(const ComparedRun& a, const ComparedRun& b, const std::string& path);

}  // namespace ls::experiments
