#pragma once
// Figures: panels of curves and points. gnuplot draws them as SVG, PNG and PDF; the page of
// `longscan report` draws the same panels with Plotly.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/style.h"

namespace ls::experiments {

enum class Drawn : std::uint8_t {
  kLine,   ///< a line through the points, an interval as a band
  kMarks,  ///< marks, an interval as a bar
  kSteps,  ///< a staircase: the value holds up to the next x
};

/// A point that a reader may ask about.
struct PointSource {
  std::string text;    ///< shown when the point is touched
  std::string anchor;  ///< of a place in the page, "" for none
};

struct Series {
  std::string label;  ///< "": not in the legend
  std::vector<double> x, y;
  std::vector<double> low, high;    ///< an interval of each y; empty for none
  std::optional<Style> style = {};  ///< by default that of its place in the panel
  Drawn drawn = Drawn::kLine;
  bool hollow = false;                    ///< marks without a filling
  std::string kind = "mean";              ///< in the CSV: mean, seed, fit, front, published, ...
  std::vector<PointSource> sources = {};  ///< of each point; empty for none
};

/// What an axis counts, which decides its ticks where it is logarithmic.
enum class AxisUnit : std::uint8_t { kNumber, kTokens, kBytes };

struct Panel {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  double y_min = 0, y_max = 0;  ///< both 0: automatic
  bool x_log = false;           ///< to the base 2
  double x_mark = 0;            ///< > 0: a dashed line there, "trained up to"
  bool y_log = false;           ///< to the base 2
  AxisUnit x_unit = AxisUnit::kNumber, y_unit = AxisUnit::kNumber;
};

/// A logarithmic axis: where it begins and ends, and at most 9 powers of two with how they are
/// written, "512", "1k", "2 KiB".
struct BinaryAxis {
  double low = 1, high = 2;
  std::vector<std::pair<double, std::string>> ticks;
};
BinaryAxis binary_axis(double low, double high, AxisUnit unit);

/// Lowest and highest finite number that a panel draws on an axis, nullopt where there is none.
std::optional<std::pair<double, double>> x_range(const Panel& panel);
std::optional<std::pair<double, double>> y_range(const Panel& panel);

/// Which files draw_figure makes besides PATH.svg.
struct FigureOptions {
  std::string note = {};  ///< stands above the panels
  std::size_t most_columns = 3;
  bool png = false;
  bool pdf = false;  ///< 3.25 inches wide, or 6.75 of several columns; text of 8 points
};

/// Writes PATH.svg, with the gnuplot script and data beside it (PATH.gp, PATH.dat) so that a figure
/// can be redrawn. A series without a finite value is named in the legend. Returns "" or, without
/// gnuplot, why there is no picture; results are not lost.
std::string draw_figure(const std::string& path, const std::vector<Panel>& panels,
                        const FigureOptions& options = {});

/// Exactly what is drawn, RFC 4180: panel, x_name, y_name, series, kind, x, y, low, high, source.
std::string figure_csv(const std::vector<Panel>& panels);

}  // namespace ls::experiments
