// How much does a state of N bytes recall over T tokens?
#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "experiments/progress.h"
#include "experiments/report/analysis.h"
#include "experiments/report/panels.h"
#include "experiments/sample.h"

namespace ls::experiments {
namespace {

using X = std::function<double(const ReportCell&)>;
constexpr int kCurvePoints = 48;  // of a smooth line, which has no marks
constexpr const char* kStateBytes = "state bytes";
constexpr const char* kZoologyBytes = "zoology bytes";

Panel metric_panel(std::string title, std::string x, AxisUnit unit, const std::string& metric) {
  Panel panel{.title = std::move(title),
              .x_label = std::move(x),
              .y_label = metric,
              .x_log = true,
              .x_unit = unit};
  if (metric.find("acc") != std::string::npos) {
    panel.y_max = 1.02;
  }
  return panel;
}

/// "64:4 128:8": lengths and pairs of the slices of a length, of all for 0, sorted.
std::string slices_text(const ReportCell& cell, Index length) {
  std::set<std::pair<Index, Index>> slices;
  for (const SliceResult& s : cell.runs.front()->reported()->slices) {
    const auto pairs = std::ranges::find(s.setting, "pairs", &std::pair<std::string, Index>::first);
    if (length == 0 || s.length == length) {
      slices.emplace(s.length, pairs == s.setting.end() ? 0 : pairs->second);
    }
  }
  std::string text;
  for (const auto& [tokens, pairs] : slices) {
    text += fmt::format("{}{}:{}", text.empty() ? "" : " ", tokens, pairs);
  }
  return text;
}

/// Name and variant of the task that a run was trained on.
std::pair<std::string, std::string> task_of(const ReportCell& cell) {
  const auto config =
      nlohmann::ordered_json::parse(cell.runs.front()->result.config, nullptr, false);
  const auto task = config.is_object() ? config.value("task", nlohmann::ordered_json::object())
                                       : nlohmann::ordered_json::object();
  return task.is_object()
             ? std::pair(task.value("name", std::string()), task.value("variant", std::string()))
             : std::pair(std::string(), std::string());
}

/// Hollow marks of what was published of the same task, slices and axis.
void add_published(Panel& panel, const std::vector<ReportCell>& cells, const std::string& x,
                   Index length, const std::vector<PublishedPoint>& published) {
  const auto [task, variant] = task_of(cells.front());
  const std::string slices = slices_text(cells.front(), length);
  std::map<std::string, Series> by_model;
  for (const PublishedPoint& p : published) {
    const bool variant_fits = p.variant.empty() || p.variant == variant;
    if (p.task != task || !variant_fits || p.slices != slices || p.x != x ||
        p.metric != metric_of(cells)) {
      continue;
    }
    Series& s = by_model
                    .try_emplace(p.model, Series{.label = p.model + " (published)",
                                                 .style = style_of(p.mixer),
                                                 .drawn = Drawn::kMarks,
                                                 .hollow = true,
                                                 .kind = "published"})
                    .first->second;
    s.x.push_back(p.at);
    s.y.push_back(p.value);
    s.low.push_back(p.value - p.error);
    s.high.push_back(p.value + p.error);
    s.sources.push_back({fmt::format("{}, {}", p.source,
                                     p.reading == "table" ? "from a table" : "read off a figure"),
                         ""});
  }
  for (auto& [model, series] : by_model) {
    panel.series.push_back(std::move(series));
  }
}

/// The staircase of what no cell of fewer bytes beats.
void add_front(Panel& panel, const std::vector<ReportCell>& cells, const X& x, Index length) {
  std::vector<std::pair<double, double>> points;
  std::vector<const ReportCell*> of;
  for (const ReportCell& cell : cells) {
    std::vector<double> values;
    for (const ReportedRun* run : cell.runs) {
      if (const auto value = metric_at(*run, length)) {
        values.push_back(*value);
      }
    }
    if (!values.empty() && std::isfinite(x(cell))) {
      points.emplace_back(x(cell), Sample{values}.mean());
      of.push_back(&cell);
    }
  }
  Series front{.label = "Pareto front",
               .style = Style{kGrey, Marker::kCircle, 1},
               .drawn = Drawn::kSteps,
               .kind = "front"};
  for (const std::size_t i : pareto_front(points)) {
    front.x.push_back(points[i].first);
    front.y.push_back(points[i].second);
    front.sources.push_back({of[i]->runs.front()->name, of[i]->runs.front()->anchor});
  }
  if (front.x.size() > 1) {
    panel.series.insert(panel.series.begin(), std::move(front));
  }
}

bool several_sizes(const std::vector<ReportCell>& cells, const X& x) {
  std::set<double> sizes;
  for (const ReportCell& cell : cells) {
    if (std::isfinite(x(cell))) {
      sizes.insert(x(cell));
    }
  }
  return sizes.size() > 1;
}

/// The metric against bytes of the state, one panel a length.
Figure frontier_figure(const ReportGroup& group, const std::vector<ReportCell>& cells,
                       const std::vector<PublishedPoint>& published) {
  Figure figure{
      .name = "capacity",
      .title = "Accuracy against bytes of state",
      .caption =
          "Bytes are those of the buffers that a model carries after so many tokens: matrix, "
          "vector, convolution, keys and values. The dashed staircase is the Pareto front: no "
          "cell with fewer bytes does better."};
  for (const Index length : lengths_of(cells)) {
    const X x = [length](const ReportCell& cell) { return bytes_at(cell, length); };
    if (!several_sizes(cells, x)) {
      continue;
    }
    Panel panel = metric_panel(fmt::format("{} tokens", length), "bytes of state", AxisUnit::kBytes,
                               metric_of(cells));
    for (const CellLine& line : lines_of(group, cells, x)) {
      add_line(panel, line, x, [length](const ReportedRun& run) { return metric_at(run, length); });
    }
    add_front(panel, cells, x, length);
    add_published(panel, cells, kStateBytes, length, published);
    figure.panels.push_back(std::move(panel));
  }
  return figure;
}

double zoology_bytes(const ReportCell& cell) {
  const Index bytes = cell.runs.front()->result.zoology_state;
  return bytes > 0 ? static_cast<double>(bytes) : NAN;
}

/// The axis of Zoology's figures beside the true one.
Figure axis_figure(const ReportGroup& group, const std::vector<ReportCell>& cells,
                   const std::vector<PublishedPoint>& published) {
  Figure figure{.name = "zoology_axis",
                .title = "The axis of Zoology's figures beside the true one",
                .caption =
                    "Mean over all lengths. Zoology counts four bytes for each element of "
                    "the layers' states at the longest test length, whatever their type, "
                    "and no convolution inside a mixer; a table below says where the two "
                    "differ."};
  const std::vector<Index> lengths = lengths_of(cells);
  if (lengths.empty()) {
    return figure;
  }
  const X of_true = [&](const ReportCell& cell) { return bytes_at(cell, lengths.back()); };
  for (const auto& [title, label, x, name] :
       {std::tuple{"true", "bytes of state at the longest length", of_true, kStateBytes},
        {"Zoology's", "Zoology's state size in bytes", X(zoology_bytes), kZoologyBytes}}) {
    if (!several_sizes(cells, x)) {
      continue;
    }
    Panel panel = metric_panel(title, label, AxisUnit::kBytes, metric_of(cells));
    for (const CellLine& line : lines_of(group, cells, x)) {
      add_line(panel, line, x, [](const ReportedRun& run) { return metric_at(run, 0); });
    }
    add_published(panel, cells, name, 0, published);
    figure.panels.push_back(std::move(panel));
  }
  return figure;
}

/// A size that cells share: the power of two that is nearest.
double size_class(const ReportCell& cell, Index length) {
  const double bytes = bytes_at(cell, length);
  return std::isfinite(bytes) ? std::exp2(std::round(std::log2(bytes))) : NAN;
}

/// A line for each cell over whole numbers that its slices have.
void add_cells_over(Panel& panel, const ReportGroup& group, const std::vector<ReportCell>& cells,
                    const std::vector<Index>& numbers,
                    const std::function<std::optional<double>(const ReportedRun&, Index)>& value) {
  for (const CellLine& line : lines_of(group, cells, [](const ReportCell&) { return 1; })) {
    std::vector<SeedPoint> points;
    for (const Index n : numbers) {
      SeedPoint& point = points.emplace_back(SeedPoint{.x = static_cast<double>(n)});
      for (const ReportedRun* run : line.cells.front()->runs) {
        if (const auto y = value(*run, n)) {
          point.values.emplace_back(run, *y);
        }
      }
    }
    add_points(panel, line.label, line.style, points);
  }
}

/// The metric over the length of the context, one panel a size of state.
Figure context_figure(const ReportGroup& group, const std::vector<ReportCell>& cells) {
  constexpr std::size_t kMostPanels = 9;
  Figure figure{.name = "context",
                .title = "Accuracy over context",
                .caption =
                    "One panel a size of state at the shortest length, rounded to a power "
                    "of two; caches of keys and values may grow from there."};
  const std::vector<Index> lengths = lengths_of(cells);
  std::map<double, std::vector<ReportCell>> classes;
  for (const ReportCell& cell : lengths.size() < 2 ? std::vector<ReportCell>() : cells) {
    const double size = size_class(cell, lengths.front());
    if (std::isfinite(size)) {
      classes[size].push_back(cell);
    }
  }
  for (const auto& [size, members] : classes) {
    if (figure.panels.size() == kMostPanels) {
      figure.caption += fmt::format(" The first {} of {} sizes.", kMostPanels, classes.size());
      break;
    }
    Panel panel = metric_panel("about " + human_bytes(size) + " of state", "tokens of context",
                               AxisUnit::kTokens, metric_of(cells));
    add_cells_over(panel, group, members, lengths,
                   [](const ReportedRun& run, Index length) { return metric_at(run, length); });
    figure.panels.push_back(std::move(panel));
  }
  return figure;
}

/// Of the slices with so many pairs.
std::optional<double> metric_at_pairs(const ReportedRun& run, Index pairs) {
  Sample values;
  for (const SliceResult& s : run.reported()->slices) {
    const auto at = std::ranges::find(s.setting, "pairs", &std::pair<std::string, Index>::first);
    const double* value = s.metrics.find(run.result.metrics.front());
    if (at != s.setting.end() && at->second == pairs && value != nullptr) {
      values.values.push_back(*value);
    }
  }
  return values.values.empty() ? std::nullopt : std::optional(values.mean());
}

std::vector<Index> pairs_of(const std::vector<ReportCell>& cells) {
  std::set<Index> pairs;
  for (const SliceResult& s : cells.front().runs.front()->reported()->slices) {
    const auto at = std::ranges::find(s.setting, "pairs", &std::pair<std::string, Index>::first);
    if (at != s.setting.end() && at->second > 0) {
      pairs.insert(at->second);
    }
  }
  return {pairs.begin(), pairs.end()};
}

/// Accuracy of a cell over log2 of the number of pairs, of some of its seeds.
std::optional<LogisticFit> fit_of(const ReportCell& cell, const std::vector<Index>& pairs,
                                  const std::vector<std::size_t>& seeds) {
  std::vector<std::pair<double, double>> points;
  for (const Index k : pairs) {
    Sample values;
    for (const std::size_t i : seeds) {
      if (const auto y = metric_at_pairs(*cell.runs[i], k)) {
        values.values.push_back(*y);
      }
    }
    if (!values.values.empty()) {
      points.emplace_back(std::log2(static_cast<double>(k)), values.mean());
    }
  }
  return fit_logistic(points);
}

std::vector<std::size_t> all_seeds(const ReportCell& cell) {
  std::vector<std::size_t> all;
  for (std::size_t i = 0; i < cell.runs.size(); ++i) {
    all.push_back(i);
  }
  return all;
}

/// The number of pairs of which a cell recalls half.
struct Capacity {
  const ReportCell* cell = nullptr;
  LogisticFit fit;
  std::optional<Interval> pairs;
};

std::vector<Capacity> capacities_of(const std::vector<ReportCell>& cells) {
  const std::vector<Index> pairs = pairs_of(cells);
  std::vector<Capacity> out;
  for (std::size_t i = 0; pairs.size() >= 3 && i < cells.size(); ++i) {
    const ReportCell& cell = cells[i];
    if (const auto fit = fit_of(cell, pairs, all_seeds(cell))) {
      out.push_back({&cell, *fit, bootstrap({cell.runs.size()}, [&](const Draw& draw) {
                       const auto again = fit_of(cell, pairs, draw.front());
                       return again ? std::exp2(again->middle) : NAN;
                     })});
    }
  }
  return out;
}

bool is_accuracy(const std::vector<ReportCell>& cells) {
  return metric_of(cells).find("acc") != std::string::npos;
}

/// Pairs recalled against bytes, with a line through each model's.
Panel capacity_panel(const ReportGroup& group, const std::vector<ReportCell>& cells,
                     const std::vector<Capacity>& capacities) {
  Panel panel{.title = "pairs recalled by half",
              .x_label = "bytes of state at the shortest length",
              .y_label = "K50",
              .x_log = true,
              .y_log = true,
              .x_unit = AxisUnit::kBytes};
  const Index length = lengths_of(cells).front();
  const X x = [length](const ReportCell& cell) { return bytes_at(cell, length); };
  for (const CellLine& line : lines_of(group, cells, x)) {
    Series marks{.label = line.label, .style = line.style, .drawn = Drawn::kMarks, .kind = "fit"};
    std::vector<std::pair<double, double>> points;
    bool intervals = true;
    for (const Capacity& c : capacities) {
      const bool here = std::ranges::any_of(line.cells, [&](const ReportCell* cell) {
        return cell->model == c.cell->model && cell->axes == c.cell->axes;
      });
      if (!here) {
        continue;
      }
      const double at = x(*c.cell), k = std::exp2(c.fit.middle);
      points.emplace_back(std::log2(at), c.fit.middle);
      marks.x.push_back(at);
      marks.y.push_back(k);
      intervals &= c.pairs.has_value();
      marks.low.push_back(c.pairs ? c.pairs->low : NAN);
      marks.high.push_back(c.pairs ? c.pairs->high : NAN);
      marks.sources.push_back({c.cell->runs.front()->name, c.cell->runs.front()->anchor});
    }
    if (!intervals) {
      marks.low.clear();
      marks.high.clear();
    }
    if (marks.x.empty()) {
      continue;
    }
    Series trend{.style = line.style, .kind = "line through the logarithms"};
    if (const auto fit = fit_line(points)) {
      const double low = std::ranges::min(points).first, high = std::ranges::max(points).first;
      for (int i = 0; i <= kCurvePoints; ++i) {
        const double at = low + (high - low) * i / kCurvePoints;
        trend.x.push_back(std::exp2(at));
        trend.y.push_back(std::exp2(fit->at_zero + fit->slope * at));
      }
    }
    panel.series.push_back(std::move(marks));
    if (!trend.x.empty()) {
      panel.series.push_back(std::move(trend));
    }
  }
  return panel;
}

/// Accuracy over the number of pairs, with the fitted curves.
Figure fits_figure(const ReportGroup& group, const std::vector<ReportCell>& cells,
                   const std::vector<Capacity>& capacities) {
  constexpr std::size_t kMostPanels = 8;
  Figure figure{.name = "fits",
                .title = "Fitted capacity",
                .caption =
                    "Accuracy over the number of pairs K is fitted by 1 / (1 + (K / K50)^s) "
                    "for each cell; the last panel has K50 against bytes, with the line "
                    "through its logarithms. Intervals are 95 % by bootstrap over seeds, "
                    "from five seeds on."};
  const std::vector<Index> pairs = pairs_of(cells), lengths = lengths_of(cells);
  std::map<double, std::vector<ReportCell>> classes;
  for (const Capacity& c : capacities) {
    const double size = size_class(*c.cell, lengths.front());
    if (std::isfinite(size)) {
      classes[size].push_back(*c.cell);
    }
  }
  for (const auto& [size, members] : classes) {
    if (figure.panels.size() == kMostPanels) {
      break;
    }
    Panel panel = metric_panel("about " + human_bytes(size) + " of state", "pairs",
                               AxisUnit::kNumber, metric_of(cells));
    add_cells_over(panel, group, members, pairs, metric_at_pairs);
    for (Series& s : panel.series) {
      s.drawn = Drawn::kMarks;
    }
    const double low = std::log2(static_cast<double>(pairs.front())),
                 high = std::log2(static_cast<double>(pairs.back()));
    for (const ReportCell& cell : members) {
      const auto fit = fit_of(cell, pairs, all_seeds(cell));
      Series curve{.style = cell.style, .kind = "fit"};
      for (int i = 0; fit && i <= kCurvePoints; ++i) {
        const double at = low + (high - low) * i / kCurvePoints;
        curve.x.push_back(std::exp2(at));
        curve.y.push_back(fit->at(at));
      }
      panel.series.push_back(std::move(curve));
    }
    figure.panels.push_back(std::move(panel));
  }
  if (several_sizes(cells, [&](const ReportCell& c) { return bytes_at(c, lengths.front()); })) {
    figure.panels.push_back(capacity_panel(group, cells, capacities));
  }
  return figure;
}

std::string cell_label(const ReportGroup& group, const ReportCell& cell) {
  std::string text = cell.model;
  for (std::size_t a = 0; a < cell.axes.size(); ++a) {
    text += cell.axes[a].empty() ? "" : fmt::format(", {} {}", group.axes[a], cell.axes[a]);
  }
  return text;
}

std::string interval_text(const std::optional<Interval>& interval, const char* format) {
  return interval ? fmt::format("{} to {}", fmt::format(fmt::runtime(format), interval->low),
                                fmt::format(fmt::runtime(format), interval->high))
                  : std::string("-");
}

ReportTable zoology_table(const ReportGroup& group, const std::vector<ReportCell>& cells) {
  constexpr double kSame = 1.005;
  ReportTable table{.title = "Where Zoology's axis differs",
                    .header = {"cell", "true bytes", "Zoology's", "ratio"}};
  const std::vector<Index> lengths = lengths_of(cells);
  std::size_t known = 0;
  for (const ReportCell& cell : cells) {
    const double is = bytes_at(cell, lengths.back()), drawn = zoology_bytes(cell);
    known += std::isfinite(is) && std::isfinite(drawn) ? 1 : 0;
    if (std::max(is / drawn, drawn / is) > kSame) {
      table.rows.push_back({cell_label(group, cell), fmt::format("{:.0f}", is),
                            fmt::format("{:.0f}", drawn), fmt::format("{:.3f}", drawn / is)});
    }
  }
  table.caption = known == 0           ? "No state was measured."
                  : table.rows.empty() ? fmt::format("At {} tokens the two agree for all {} cells.",
                                                     lengths.back(), known)
                                       : fmt::format("At {} tokens they differ for {} of {} cells.",
                                                     lengths.back(), table.rows.size(), known);
  return table;
}

ReportTable fits_table(const ReportGroup& group, const std::vector<Capacity>& capacities) {
  ReportTable table{.title = "Fitted capacities",
                    .caption =
                        "K50: pairs of which half are recalled; 95 % intervals by bootstrap "
                        "over seeds, from five seeds on.",
                    .header = {"cell", "seeds", "K50", "95 % interval", "steepness"}};
  for (const Capacity& c : capacities) {
    table.rows.push_back({cell_label(group, *c.cell), std::to_string(c.cell->runs.size()),
                          fmt::format("{:.1f}", std::exp2(c.fit.middle)),
                          interval_text(c.pairs, "{:.1f}"), fmt::format("{:.2f}", -c.fit.slope)});
  }
  return table;
}

/// Of a line's cells the slope of log K50 over log bytes, with seeds drawn as given (all where
/// `draw` is empty).
double slope_of(const CellLine& line, const std::vector<Index>& pairs, Index length,
                const Draw& draw) {
  std::vector<std::pair<double, double>> points;
  for (std::size_t i = 0; i < line.cells.size(); ++i) {
    const auto fit =
        fit_of(*line.cells[i], pairs, draw.empty() ? all_seeds(*line.cells[i]) : draw[i]);
    if (fit) {
      points.emplace_back(std::log2(bytes_at(*line.cells[i], length)), fit->middle);
    }
  }
  const auto line_fit = fit_line(points);
  return line_fit ? line_fit->slope : NAN;
}

ReportTable slopes_table(const ReportGroup& group, const std::vector<ReportCell>& cells) {
  ReportTable table{.title = "Slope of log K50 over log bytes",
                    .caption = "1: twice the state recalls twice the pairs.",
                    .header = {"line", "sizes", "slope", "95 % interval"}};
  const std::vector<Index> pairs = pairs_of(cells);
  const Index length = lengths_of(cells).front();
  for (const CellLine& line :
       lines_of(group, cells, [length](const ReportCell& c) { return bytes_at(c, length); })) {
    const double slope = slope_of(line, pairs, length, {});
    std::vector<std::size_t> sizes;
    for (const ReportCell* cell : line.cells) {
      sizes.push_back(cell->runs.size());
    }
    if (std::isfinite(slope)) {
      const auto interval =
          bootstrap(sizes, [&](const Draw& draw) { return slope_of(line, pairs, length, draw); });
      table.rows.push_back({line.label, std::to_string(line.cells.size()),
                            fmt::format("{:.2f}", slope), interval_text(interval, "{:.2f}")});
    }
  }
  return table;
}

}  // namespace

std::vector<Figure> capacity_figures(const ReportGroup& group, const std::vector<ReportCell>& cells,
                                     const std::vector<PublishedPoint>& published) {
  std::vector<Figure> figures = {frontier_figure(group, cells, published),
                                 axis_figure(group, cells, published)};
  if (group.sweep) {
    figures.push_back(context_figure(group, cells));
  }
  const std::vector<Capacity> capacities =
      is_accuracy(cells) ? capacities_of(cells) : std::vector<Capacity>();
  if (!capacities.empty()) {
    figures.push_back(fits_figure(group, cells, capacities));
  }
  return figures;
}

std::vector<ReportTable> capacity_tables(const ReportGroup& group,
                                         const std::vector<ReportCell>& cells) {
  std::vector<ReportTable> tables = {zoology_table(group, cells)};
  const std::vector<Capacity> capacities =
      is_accuracy(cells) ? capacities_of(cells) : std::vector<Capacity>();
  if (!capacities.empty()) {
    tables.push_back(fits_table(group, capacities));
    tables.push_back(slopes_table(group, cells));
  }
  std::erase_if(tables, [](const ReportTable& t) { return t.rows.empty() && t.caption.empty(); });
  return tables;
}

}  // namespace ls::experiments
