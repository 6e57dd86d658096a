#pragma once
// The results of a run side by side: a table and a figure.
#include <string>
#include <vector>

#include "experiments/result.h"

namespace ls::experiments {

/// Rows: model, parameters, state bytes, headline metrics as mean and spread over seeds, tokens/s.
std::string results_table(const std::vector<RunResult>& results);

/// Draws the first columns of the table over training into DIRECTORY/figure.svg; the path of the
/// figure, or "" where there is none, with a warning that says why.
std::string results_figure(const std::vector<RunResult>& results, const std::string& directory);

}  // namespace ls::experiments
