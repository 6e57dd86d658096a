#pragma once
// Figures of a sweep.
#include <string>
#include <vector>

#include "experiments/figure.h"
#include "experiments/sweep/choice.h"

namespace ls::experiments {

/// The task's first metric, at the chosen rates on the reported seeds: for each length that was
/// evaluated against the bytes of the state at that length, then against each axis of numbers, mean
/// over the slices. With fewer than five seeds every seed is a point, from five on a point is their
/// mean and its bar their standard deviation. Cells whose rate lies at the edge of its grid are
/// marked.
std::vector<Panel> sweep_panels(const SweepPlan& plan, const SweepFolder& folder);

/// Draws DIRECTORY/figure.svg; its path, or "" with a warning where it cannot be drawn, and where
/// there is nothing to draw.
std::string sweep_figure(const SweepPlan& plan, const SweepFolder& folder);

}  // namespace ls::experiments
