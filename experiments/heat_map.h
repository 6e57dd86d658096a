#pragma once
// A table of numbers as colored cells, as SVG.
#include <string>
#include <vector>

namespace ls::experiments {

struct HeatMap {
  std::string title, x_label, y_label, value_label;
  std::vector<std::string> x, y;            ///< of columns from the left and rows from the bottom
  std::vector<std::vector<double>> values;  ///< [y][x], 0 .. 1; NaN: see `missing`
  std::string missing = "not run";          ///< what a cell without a number says
};

/// The text of the picture: each cell has its color, light to dark, and its number.
std::string heat_map_svg(const HeatMap& map);

}  // namespace ls::experiments
