#include "experiments/report/panels.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <set>

#include "experiments/evaluate.h"
#include "experiments/report.h"
#include "experiments/report/analysis.h"
#include "experiments/sample.h"

namespace ls::experiments {
namespace {

using X = std::function<double(const ReportCell&)>;

/// A positive number, NaN for anything else.
double as_number(const std::string& text) {
  double x = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), x);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size() && x > 0 ? x : NAN;
}

/// Axes that several of the cells differ in, those that change together in one list.
std::vector<std::vector<std::size_t>> factors_of(const std::vector<const ReportCell*>& cells) {
  std::vector<std::vector<std::size_t>> factors;
  const std::size_t axes = cells.front()->axes.size();
  const auto together = [&](std::size_t a, std::size_t b) {
    std::set<std::pair<std::string, std::string>> pairs;
    std::set<std::string> of_a, of_b;
    for (const ReportCell* cell : cells) {
      pairs.emplace(cell->axes[a], cell->axes[b]);
      of_a.insert(cell->axes[a]);
      of_b.insert(cell->axes[b]);
    }
    return pairs.size() == of_a.size() && pairs.size() == of_b.size();
  };
  for (std::size_t a = 0; a < axes; ++a) {
    const bool varies = std::ranges::any_of(
        cells, [&](const ReportCell* c) { return c->axes[a] != cells.front()->axes[a]; });
    const auto same =
        std::ranges::find_if(factors, [&](const auto& f) { return together(f.front(), a); });
    if (varies && same != factors.end()) {
      same->push_back(a);
    } else if (varies) {
      factors.push_back({a});
    }
  }
  return factors;
}

/// What cells have in all factors but one.
std::vector<std::string> others_of(const ReportCell& cell,
                                   const std::vector<std::vector<std::size_t>>& factors,
                                   std::size_t but) {
  std::vector<std::string> out;
  for (std::size_t f = 0; f < factors.size(); ++f) {
    out.push_back(f == but ? "" : cell.axes[factors[f].front()]);
  }
  return out;
}

/// How far a factor alone moves cells along x, as a ratio.
double reach_of(const std::vector<const ReportCell*>& cells,
                const std::vector<std::vector<std::size_t>>& factors, std::size_t f, const X& x) {
  std::map<std::vector<std::string>, std::pair<double, double>> ranges;
  for (const ReportCell* cell : cells) {
    const double at = x(*cell);
    if (std::isfinite(at)) {
      auto& [low, high] = ranges.try_emplace(others_of(*cell, factors, f), at, at).first->second;
      low = std::min(low, at);
      high = std::max(high, at);
    }
  }
  double reach = 1;
  for (const auto& [key, range] : ranges) {
    reach = std::max(reach, range.second / range.first);
  }
  return reach;
}

void add_lines_of_model(const ReportGroup& group, const std::vector<const ReportCell*>& cells,
                        const X& x, std::vector<CellLine>& lines) {
  const auto factors = factors_of(cells);
  std::size_t main = factors.size();
  double best = 1;
  for (std::size_t f = 0; f < factors.size(); ++f) {
    const double reach = reach_of(cells, factors, f, x);
    if (reach > best) {
      best = reach;
      main = f;
    }
  }
  std::map<std::vector<std::string>, std::size_t> line_of;
  int dash = cells.front()->style.dash;
  for (const ReportCell* cell : cells) {
    const auto [at, fresh] = line_of.emplace(others_of(*cell, factors, main), lines.size());
    if (fresh) {
      CellLine line{.label = cell->model, .style = cell->style};
      line.style.dash = dash++ % kDashes;
      for (std::size_t f = 0; f < factors.size(); ++f) {
        const std::size_t axis = factors[f].front();
        line.label += f == main ? "" : fmt::format(", {} {}", group.axes[axis], cell->axes[axis]);
      }
      lines.push_back(std::move(line));
    }
    lines[at->second].cells.push_back(cell);
  }
}

PointSource source_of(const ReportedRun& run) {
  return {run.name, run.anchor};
}

Panel accuracy_panel(std::string title, std::string x, const std::string& metric) {
  Panel panel{.title = std::move(title), .x_label = std::move(x), .y_label = metric};
  if (metric.find("acc") != std::string::npos) {
    panel.y_max = 1.02;
  }
  return panel;
}

/// The metric against each axis of numbers.
Figure axes_figure(const ReportGroup& group, const std::vector<ReportCell>& cells) {
  Figure figure{.name = "axes",
                .title = "Against what the sweep varies",
                .caption = "The mean over the lengths, one panel for each axis of numbers."};
  for (std::size_t a = 0; a < group.axes.size(); ++a) {
    std::set<double> values;
    const X x = [a](const ReportCell& cell) { return as_number(cell.axes[a]); };
    for (const ReportCell& cell : cells) {
      if (std::isfinite(x(cell))) {
        values.insert(x(cell));
      }
    }
    if (values.size() < 2) {
      continue;
    }
    Panel panel = accuracy_panel(group.axes[a], group.axes[a], metric_of(cells));
    panel.x_log = true;
    for (const CellLine& line : lines_of(group, cells, x)) {
      add_line(panel, line, x, [](const ReportedRun& run) { return metric_at(run, 0); });
    }
    figure.panels.push_back(std::move(panel));
  }
  return figure;
}

/// What the seeds of a cell have over training.
using Curve = std::function<std::vector<std::pair<double, double>>(const ReportedRun&)>;

void add_curve(Panel& panel, const ReportCell& cell, const std::string& label, const Curve& of) {
  std::map<double, std::vector<double>> by_x;
  for (const ReportedRun* run : cell.runs) {
    for (const auto& [x, y] : of(*run)) {
      by_x[x].push_back(y);
    }
  }
  Series line{.label = label, .style = cell.style};
  bool intervals = !by_x.empty();
  for (const auto& [x, values] : by_x) {
    line.x.push_back(x);
    line.y.push_back(Sample{values}.mean());
    const auto interval = bootstrap_mean(values);
    intervals &= interval.has_value();
    line.low.push_back(interval ? interval->low : NAN);
    line.high.push_back(interval ? interval->high : NAN);
    line.sources.push_back(cell.runs.size() == 1 ? source_of(*cell.runs.front()) : PointSource{});
  }
  if (!intervals) {
    line.low.clear();
    line.high.clear();
  }
  panel.series.push_back(std::move(line));
}

std::vector<std::pair<double, double>> validations_of(const ReportedRun& run) {
  std::vector<std::pair<double, double>> out;
  for (const Evaluation& e : run.result.history) {
    if (e.split == data::Split::kValid) {
      out.emplace_back(static_cast<double>(e.step), mean_metric(e, run.result.metrics.front()));
    }
  }
  return out;
}

/// Loss and validation over training, of as many cells as can be told apart.
Figure training_figure(const ReportGroup& group, const std::vector<ReportCell>& cells) {
  constexpr std::size_t kMostCells = 12;
  Figure figure{.name = "training",
                .title = "Over training",
                .caption =
                    "Loss of training and validation after each evaluation, means over "
                    "seeds."};
  std::map<std::string, std::vector<const ReportCell*>> by_model;
  for (const ReportCell& cell : cells) {
    by_model[cell.model].push_back(&cell);
  }
  const bool one_each = cells.size() == by_model.size();
  const auto label = [&](const ReportCell& cell) {
    std::string text = cell.model;
    const auto factors = factors_of(by_model[cell.model]);
    for (const auto& f : factors) {
      text += fmt::format(", {} {}", group.axes[f.front()], cell.axes[f.front()]);
    }
    return one_each ? cell.model : text;
  };
  const std::size_t shown = std::min(kMostCells, cells.size());
  if (shown < cells.size()) {
    figure.caption += fmt::format(" The first {} of {} cells; all are in the table of runs.", shown,
                                  cells.size());
  }
  Panel loss{.title = "training", .x_label = "update", .y_label = "loss"};
  Panel valid = accuracy_panel("validation", "update", metric_of(cells));
  std::map<std::string, int> dashes;
  for (std::size_t c = 0; c < shown; ++c) {
    ReportCell cell = cells[c];
    cell.style.dash = (cell.style.dash + dashes[cell.model]++) % kDashes;
    add_curve(loss, cell, label(cells[c]), [](const ReportedRun& run) {
      return std::vector<std::pair<double, double>>(run.losses.begin(), run.losses.end());
    });
    add_curve(valid, cell, label(cells[c]), validations_of);
  }
  for (Panel* panel : {&loss, &valid}) {
    const bool any = std::ranges::any_of(panel->series, [](const auto& s) { return !s.x.empty(); });
    if (any) {
      figure.panels.push_back(std::move(*panel));
    }
  }
  return figure;
}

}  // namespace

std::vector<ReportCell> cells_of(const ReportGroup& group) {
  std::vector<ReportCell> cells;
  std::vector<std::string> models, mixers;
  for (const ReportedRun& run : group.runs) {
    if (!run.finished() || !run.chosen || run.reported() == nullptr) {
      continue;
    }
    if (std::ranges::find(models, run.result.model) == models.end()) {
      models.push_back(run.result.model);
      mixers.push_back(run.result.mixers());
    }
    const auto at = std::ranges::find_if(cells, [&](const ReportCell& c) {
      return c.model == run.result.model && c.axes == run.axes;
    });
    ReportCell& cell =
        at != cells.end()
            ? *at
            : cells.emplace_back(ReportCell{
                  .model = run.result.model, .mixers = run.result.mixers(), .axes = run.axes});
    cell.edge |= run.edge;
    cell.runs.push_back(&run);
  }
  const std::vector<Style> styles = styles_of(mixers);
  for (ReportCell& cell : cells) {
    const auto model = std::ranges::find(models, cell.model) - models.begin();
    cell.style = styles[static_cast<std::size_t>(model)];
  }
  return cells;
}

std::vector<CellLine> lines_of(const ReportGroup& group, const std::vector<ReportCell>& cells,
                               const X& x) {
  std::vector<std::pair<std::string, std::vector<const ReportCell*>>> models;
  for (const ReportCell& cell : cells) {
    if (!std::isfinite(x(cell))) {
      continue;
    }
    auto at = std::ranges::find(models, cell.model, [](const auto& m) { return m.first; });
    if (at == models.end()) {
      at = models.insert(models.end(), {cell.model, {}});
    }
    at->second.push_back(&cell);
  }
  std::vector<CellLine> lines;
  for (const auto& [name, of_model] : models) {
    add_lines_of_model(group, of_model, x, lines);
  }
  return lines;
}

void add_points(Panel& panel, const std::string& label, const Style& style,
                std::vector<SeedPoint> points) {
  std::erase_if(points, [](const SeedPoint& p) { return p.values.empty(); });
  std::ranges::stable_sort(points, {}, &SeedPoint::x);
  Series means{.label = label, .style = style};
  Series seeds{.style = style, .drawn = Drawn::kMarks, .kind = "seed"};
  Series edges{.style = Style{kGrey, Marker::kSquare},
               .drawn = Drawn::kMarks,
               .hollow = true,
               .kind = "rate at the edge of its grid"};
  bool intervals = !points.empty();
  for (const SeedPoint& point : points) {
    std::vector<double> values;
    for (const auto& [run, y] : point.values) {
      values.push_back(y);
      seeds.x.push_back(point.x);
      seeds.y.push_back(y);
      seeds.sources.push_back(source_of(*run));
    }
    means.x.push_back(point.x);
    means.y.push_back(Sample{values}.mean());
    means.sources.push_back(source_of(*point.values.front().first));
    const auto interval = bootstrap_mean(values);
    intervals &= interval.has_value();
    means.low.push_back(interval ? interval->low : NAN);
    means.high.push_back(interval ? interval->high : NAN);
    if (point.edge) {
      edges.x.push_back(point.x);
      edges.y.push_back(means.y.back());
      edges.sources.push_back(means.sources.back());
    }
  }
  if (!intervals) {
    means.low.clear();
    means.high.clear();
  }
  const bool spread = !intervals && seeds.x.size() > means.x.size();
  if (!means.x.empty()) {
    panel.series.push_back(std::move(means));
  }
  if (spread) {
    panel.series.push_back(std::move(seeds));
  }
  if (!edges.x.empty()) {
    const bool named =
        std::ranges::any_of(panel.series, [&](const Series& s) { return s.label == edges.kind; });
    edges.label = named ? "" : edges.kind;
    panel.series.push_back(std::move(edges));
  }
}

void add_line(Panel& panel, const CellLine& line, const X& x, const CellValue& y) {
  std::vector<SeedPoint> points;
  for (const ReportCell* cell : line.cells) {
    SeedPoint& point = points.emplace_back(SeedPoint{.x = x(*cell), .edge = cell->edge});
    for (const ReportedRun* run : cell->runs) {
      if (const std::optional<double> value = y(*run)) {
        point.values.emplace_back(run, *value);
      }
    }
  }
  add_points(panel, line.label, line.style, std::move(points));
}

std::optional<double> metric_at(const ReportedRun& run, Index length) {
  const Evaluation* e = run.reported();
  Sample values;
  for (const SliceResult& s : e == nullptr ? std::vector<SliceResult>() : e->slices) {
    const double* value = s.metrics.find(run.result.metrics.front());
    if ((length == 0 || s.length == length) && value != nullptr && std::isfinite(*value)) {
      values.values.push_back(*value);
    }
  }
  return values.values.empty() ? std::nullopt : std::optional(values.mean());
}

double bytes_at(const ReportCell& cell, Index length) {
  const std::vector<StateSize>& sizes = cell.runs.front()->result.state_sizes;
  const auto at = std::ranges::find(sizes, length, &StateSize::tokens);
  const bool known = at != sizes.end() && at->bytes.total() > 0;
  return known ? static_cast<double>(at->bytes.total()) : NAN;
}

std::vector<Index> lengths_of(const std::vector<ReportCell>& cells) {
  std::set<Index> lengths;
  for (const ReportCell& cell : cells) {
    for (const SliceResult& s : cell.runs.front()->reported()->slices) {
      lengths.insert(s.length);
    }
  }
  return {lengths.begin(), lengths.end()};
}

std::string metric_of(const std::vector<ReportCell>& cells) {
  return cells.empty() ? "" : cells.front().runs.front()->result.metrics.front();
}

std::vector<Figure> figures_of(const ReportGroup& group,
                               const std::vector<PublishedPoint>& published) {
  const std::vector<ReportCell> cells = cells_of(group);
  if (cells.empty()) {
    return {};
  }
  std::vector<Figure> figures = capacity_figures(group, cells, published);
  if (!group.sweep) {
    std::vector<RunResult> results;
    for (const ReportCell& cell : cells) {
      for (const ReportedRun* run : cell.runs) {
        results.push_back(run->result);
      }
    }
    figures.push_back({"length", "By length, and each slice over training",
                       "Means and standard deviations over seeds.", results_panels(results)});
    figures.push_back({"positions", "By position",
                       "Loss and accuracy of labels by the tokens that the state had read.",
                       positions_panels(results)});
  }
  figures.push_back(axes_figure(group, cells));
  figures.push_back(training_figure(group, cells));
  std::erase_if(figures, [](const Figure& f) { return f.panels.empty(); });
  return figures;
}

std::vector<ReportTable> tables_of(const ReportGroup& group) {
  const std::vector<ReportCell> cells = cells_of(group);
  if (cells.empty()) {
    return {};
  }
  ReportTable results{.title = "Results",
                      .caption =
                          "Means over lengths, and over seeds with the 95 % interval of the "
                          "mean from five seeds on. * marks a rate at the edge of its grid.",
                      .header = {"model"}};
  results.header.insert(results.header.end(), group.axes.begin(), group.axes.end());
  results.header.insert(results.header.end(),
                        {"rate", "seeds", metric_of(cells), "lowest", "highest", "95 % interval",
                         "parameters", "state bytes", "Zoology's"});
  for (const ReportCell& cell : cells) {
    std::vector<double> values;
    for (const ReportedRun* run : cell.runs) {
      values.push_back(metric_at(*run, 0).value_or(NAN));
    }
    const RunResult& first = cell.runs.front()->result;
    const auto shown = [](double v) {
      return std::isfinite(v) ? fmt::format("{:.4f}", v) : std::string("-");
    };
    std::vector<std::string> row = {cell.model};
    for (const std::string& value : cell.axes) {
      row.push_back(value.empty() ? "-" : value);
    }
    const std::string& rate = cell.runs.front()->rate;
    const auto interval = bootstrap_mean(values);
    row.insert(row.end(),
               {rate.empty() ? "-" : rate + (cell.edge ? " *" : ""), std::to_string(values.size()),
                shown(Sample{values}.mean()), shown(std::ranges::min(values)),
                shown(std::ranges::max(values)),
                interval ? fmt::format("{:.4f} to {:.4f}", interval->low, interval->high) : "-",
                std::to_string(first.parameters),
                first.state_sizes.empty() ? std::to_string(first.state.total())
                                          : std::to_string(first.state_sizes.back().bytes.total()),
                first.zoology_state > 0 ? std::to_string(first.zoology_state) : "-"});
    results.rows.push_back(std::move(row));
  }
  std::vector<ReportTable> tables = {std::move(results)};
  std::ranges::move(capacity_tables(group, cells), std::back_inserter(tables));
  return tables;
}

std::vector<Panel> sweep_panels(const ReportGroup& group) {
  std::vector<Panel> panels;
  for (Figure& figure : figures_of(group, {})) {
    if (figure.name == "capacity" || figure.name == "axes") {
      std::ranges::move(figure.panels, std::back_inserter(panels));
    }
  }
  return panels;
}

}  // namespace ls::experiments
