#pragma once
// Line figures through gnuplot, as SVG.
#include <string>
#include <vector>

namespace ls::experiments {

struct Series {
  std::string label;
  std::vector<double> x, y;
  std::vector<double> spread;  ///< half-width of a band around y; empty for none
};

struct Panel {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  double y_min = 0, y_max = 0;  ///< both 0: automatic
};

/// Writes PATH.svg, with the gnuplot script and data beside it (PATH.gp, PATH.dat) so that a figure
/// can be redrawn. Returns "" or, without gnuplot, why there is no picture; results are not lost.
std::string draw_figure(const std::string& path, const std::vector<Panel>& panels);

}  // namespace ls::experiments
