#pragma once
// Line figures through gnuplot, as SVG.
#include <string>
#include <vector>

namespace ls::experiments {

struct Series {
  std::string label;
  std::vector<double> x, y;
  std::vector<double> spread;  ///< half-width of a band around y; empty for none
  int color = -1;              ///< number of its color; -1: its place in the panel
  bool points = false;         ///< hollow marks, with bars for the spread, and no line
};

struct Panel {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  double y_min = 0, y_max = 0;  ///< both 0: automatic
  bool x_log = false;
  double x_mark = 0;  ///< > 0: a dashed line there, "trained up to"
};

/// Writes PATH.svg, with the gnuplot script and data beside it (PATH.gp, PATH.dat) so that a figure
/// can be redrawn. `note` stands above the panels, which lie in rows of up to `most_columns`. A
/// series without a finite value is named in the legend. Returns "" or, without gnuplot, why there
/// is no picture; results are not lost.
std::string draw_figure(const std::string& path, const std::vector<Panel>& panels,
                        const std::string& note = "", std::size_t most_columns = 3);

}  // namespace ls::experiments
