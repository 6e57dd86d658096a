#pragma once
// What a LengthStudy says: text for the terminal, JSON, CSV and figures.
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "experiments/lengths.h"

namespace ls::experiments {

/// The findings, below the table of results: states by layer, remembrance, collapse, horizon.
std::string lengths_text(const LengthStudy& study, int width);
/// {"model", "step", "split", "train_length", "lengths": [a slice as in evaluations, and
/// "state_bytes"], "positions": [..], "states": [..], "remembrance": [..], "spread": [..],
/// "collapse": {..} or null, "horizon": {..} or null}; what is not finite is null.
void to_json(nlohmann::ordered_json& j, const LengthStudy& study);
/// DIRECTORY/lengths.json, a CSV of each list of it by its name, figure.svg, and depths.svg where
/// the slices have a depth. The paths; a warning says why there is no figure.
std::vector<std::string> write_lengths(const LengthStudy& study, const std::string& directory);
/// PATH.svg, .png, .pdf and .csv: the metric by length with what was not run, loss and accuracy by
/// position, states, remembrance and spread. The path of the first, or "" as above.
std::string lengths_figure(const LengthStudy& study, const std::string& path);

}  // namespace ls::experiments
