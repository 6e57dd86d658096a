#pragma once
// The results of a run side by side: a table and a figure.
#include <string>
#include <vector>

#include "experiments/figure.h"
#include "experiments/result.h"

namespace ls::experiments {

/// Rows: model, parameters, state bytes, headline metrics as mean and spread over seeds, tokens/s.
/// With one slice also the metrics of its tags; a last line names the metrics that are not shown.
/// Within `width` columns where that is not 0.
std::string results_table(const std::vector<RunResult>& results, int width = 0);

/// The headline metric against length where slices differ in length only, and every column of the
/// table over training.
std::vector<Panel> results_panels(const std::vector<RunResult>& results);
/// Loss and accuracy by position.
std::vector<Panel> positions_panels(const std::vector<RunResult>& results);

/// Draws them as DIRECTORY/figure.svg and DIRECTORY/positions.svg. The paths of the figures that
/// there are; a warning says why one is missing, and a figure what it leaves out.
std::vector<std::string> results_figures(const std::vector<RunResult>& results,
                                         const std::string& directory);
/// PATH.svg: loss and accuracy of the last evaluation by position. Its path, or "" as above.
std::string positions_figure(const RunResult& result, const std::string& path);

}  // namespace ls::experiments
