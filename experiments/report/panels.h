#pragma once
// Figures and tables of a group of runs.
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "experiments/figure.h"
#include "experiments/report/collect.h"
#include "experiments/report/published.h"

namespace ls::experiments {

struct Figure {
  std::string name, title, caption;  ///< the name is that of its files
  std::vector<Panel> panels;
};

/// Of one model under one value of each axis the seeds that are reported.
struct ReportCell {
  std::string model, mixers;
  std::vector<std::string> axes;
  Style style;
  bool edge = false;
  std::vector<const ReportedRun*> runs;
};
std::vector<ReportCell> cells_of(const ReportGroup& group);

/// The cells that one line joins, and its label: those that differ in the axis that moves them most
/// along x alone. Axes that change together count as one.
struct CellLine {
  std::string label;
  std::vector<const ReportCell*> cells;
  Style style;
};
/// `x`: NaN where a cell has none.
std::vector<CellLine> lines_of(const ReportGroup& group, const std::vector<ReportCell>& cells,
                               const std::function<double(const ReportCell&)>& x);

/// Figures that the group has data for.
std::vector<Figure> figures_of(const ReportGroup& group,
                               const std::vector<PublishedPoint>& published);

/// Those that lie in a sweep's folder: against bytes of the state, and against its axes.
std::vector<Panel> sweep_panels(const ReportGroup& group);

struct ReportTable {
  std::string title, caption;
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;
};
/// Cells with their results; where Zoology's state size differs from the true one; fitted
/// capacities.
std::vector<ReportTable> tables_of(const ReportGroup& group);

/// What the seeds of a cell have at one x.
struct SeedPoint {
  double x = 0;
  bool edge = false;
  std::vector<std::pair<const ReportedRun*, double>> values = {};
};
/// Adds the line through the means, and the seeds as points or the interval of the mean.
void add_points(Panel& panel, const std::string& label, const Style& style,
                std::vector<SeedPoint> points);
using CellValue = std::function<std::optional<double>(const ReportedRun&)>;
/// The same of the cells of a line.
void add_line(Panel& panel, const CellLine& line, const std::function<double(const ReportCell&)>& x,
              const CellValue& y);

/// Of one length, or of all for 0; nullopt where the run has no such slice.
std::optional<double> metric_at(const ReportedRun& run, Index length);
/// Bytes of the state after so many tokens; NaN where it was not measured.
double bytes_at(const ReportCell& cell, Index length);
/// Lengths of the reported evaluations, in order.
std::vector<Index> lengths_of(const std::vector<ReportCell>& cells);
/// The first metric of the task.
std::string metric_of(const std::vector<ReportCell>& cells);

// Of experiments/report/capacity.cpp.
std::vector<Figure> capacity_figures(const ReportGroup& group, const std::vector<ReportCell>& cells,
                                     const std::vector<PublishedPoint>& published);
std::vector<ReportTable> capacity_tables(const ReportGroup& group,
                                         const std::vector<ReportCell>& cells);

}  // namespace ls::experiments
