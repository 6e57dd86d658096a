#include "experiments/sweep/figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <functional>
#include <map>
#include <optional>
#include <set>

#include "core/base/log.h"
#include "experiments/evaluate.h"
#include "experiments/sample.h"
#include "experiments/sweep/results.h"

namespace ls::experiments {
namespace {

constexpr std::size_t kSeedsForBars = 5;
constexpr const char* kEdge = "rate at the edge of its grid";

/// What the reported seeds of a cell have at one x.
struct Point {
  std::string model;
  double x = 0;
  bool edge = false;
  Sample y;
};

/// x of one run, and its y; nullopt where the run has none.
using XY = std::function<std::optional<std::pair<double, double>>(
    const SweepCell&, const RunResult&, const Evaluation&)>;

std::vector<Point> points_of(const SweepPlan& plan, const SweepFolder& folder, const XY& xy) {
  std::vector<Point> points;
  for (const SweepCell& cell : plan.cells) {
    const RateChoice choice = choose_rate(plan, cell, folder);
    if (!choice.known || choice.rate < 0) {
      continue;
    }
    Point point{.model = cell.model, .edge = choice.edge};
    for (const SweepRun& run : cell.report[static_cast<std::size_t>(choice.rate)]) {
      const EndedRun* ended = folder.ended(run);
      const Evaluation* e = ended != nullptr && ended->result ? reported(*ended->result) : nullptr;
      const auto value = e == nullptr ? std::nullopt : xy(cell, *ended->result, *e);
      if (value) {
        point.x = value->first;
        point.y.values.push_back(value->second);
      }
    }
    if (!point.y.values.empty()) {
      points.push_back(std::move(point));
    }
  }
  std::ranges::stable_sort(points, {}, &Point::x);
  return points;
}

/// Lines through the means of each model, marks for seeds or bars, and marks of edges.
Panel panel_of(const SweepPlan& plan, const std::vector<Point>& points, const std::string& title,
               const std::string& x_label, const std::string& metric) {
  Panel panel{.title = title, .x_label = x_label, .y_label = metric, .x_log = true};
  if (metric.find("acc") != std::string::npos) {
    panel.y_max = 1.02;
  }
  std::vector<std::string> models;
  for (const SweepCell& cell : plan.cells) {
    if (std::ranges::find(models, cell.model) == models.end()) {
      models.push_back(cell.model);
    }
  }
  Series edges{.label = kEdge, .color = 6, .points = true};
  for (std::size_t m = 0; m < models.size(); ++m) {
    Series line{.label = models[m], .color = static_cast<int>(m)};
    Series marks{.color = static_cast<int>(m), .points = true};
    for (const Point& p : points) {
      if (p.model != models[m]) {
        continue;
      }
      line.x.push_back(p.x);
      line.y.push_back(p.y.mean());
      const bool bars = p.y.values.size() >= kSeedsForBars;
      for (const double y : bars ? std::vector<double>{p.y.mean()} : p.y.values) {
        marks.x.push_back(p.x);
        marks.y.push_back(y);
        marks.spread.push_back(bars ? p.y.spread() : 0);
      }
      if (p.edge) {
        edges.x.push_back(p.x);
        edges.y.push_back(p.y.mean());
      }
    }
    if (!line.x.empty()) {
      panel.series.push_back(std::move(line));
      panel.series.push_back(std::move(marks));
    }
  }
  if (!edges.x.empty()) {
    panel.series.push_back(std::move(edges));
  }
  return panel;
}

/// The lengths and the first metric of what was reported.
struct Reported {
  std::set<Index> lengths;
  std::string metric;
};
Reported reported_of(const SweepPlan& plan, const SweepFolder& folder) {
  Reported out;
  points_of(plan, folder, [&](const SweepCell&, const RunResult& r, const Evaluation& e) {
    out.metric = r.metrics.front();
    for (const SliceResult& s : e.slices) {
      out.lengths.insert(s.length);
    }
    return std::nullopt;
  });
  return out;
}

std::optional<double> as_number(const std::string& text) {
  double x = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), x);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && x > 0
             ? std::optional(x)
             : std::nullopt;
}

}  // namespace

std::vector<Panel> sweep_panels(const SweepPlan& plan, const SweepFolder& folder) {
  std::vector<Panel> panels;
  const Reported found = reported_of(plan, folder);
  for (const Index length : found.lengths) {
    const auto points = points_of(
        plan, folder,
        [&](const SweepCell&, const RunResult& r,
            const Evaluation& e) -> std::optional<std::pair<double, double>> {
          Sample y;
          for (const SliceResult& s : e.slices) {
            const double* value = s.length == length ? s.metrics.find(found.metric) : nullptr;
            if (value != nullptr) {
              y.values.push_back(*value);
            }
          }
          const auto state = std::ranges::find(r.state_sizes, length, &StateSize::tokens);
          return y.values.empty() || state == r.state_sizes.end()
                     ? std::nullopt
                     : std::optional(
                           std::pair(static_cast<double>(state->bytes.total()), y.mean()));
        });
    panels.push_back(
        panel_of(plan, points, fmt::format("{} tokens", length), "bytes of state", found.metric));
  }
  for (const AxisColumn& column : axis_columns(plan.paths)) {
    std::set<double> values;
    for (const SweepCell& cell : plan.cells) {
      if (const std::optional<double> x = as_number(column.value(cell))) {
        values.insert(*x);
      }
    }
    if (values.size() < 2) {
      continue;
    }
    const auto points = points_of(
        plan, folder,
        [&](const SweepCell& cell, const RunResult&,
            const Evaluation& e) -> std::optional<std::pair<double, double>> {
          const std::optional<double> x = as_number(column.value(cell));
          return x ? std::optional(std::pair(*x, mean_metric(e, found.metric))) : std::nullopt;
        });
    panels.push_back(panel_of(plan, points, "all lengths", column.name, found.metric));
  }
  return panels;
}

std::string sweep_figure(const SweepPlan& plan, const SweepFolder& folder) {
  constexpr std::size_t kMostPanels = 12;
  std::vector<Panel> panels = sweep_panels(plan, folder);
  if (panels.empty()) {
    return "";
  }
  if (panels.size() > kMostPanels) {
    log_warn(fmt::format("figure.svg: {} of {} panels are left out; results.csv has all",
                         panels.size() - kMostPanels, panels.size()));
    panels.resize(kMostPanels);
  }
  const std::string path = folder.path() + "/figure";
  const std::string why = draw_figure(path, panels, "", 3);
  if (!why.empty()) {
    log_warn("no figure: " + why);
    return "";
  }
  return path + ".svg";
}

}  // namespace ls::experiments
