#include "experiments/report.h"

#include <algorithm>
#include <cmath>

#include "core/base/log.h"
#include "experiments/figure.h"
#include "experiments/progress.h"
#include "experiments/table.h"

namespace ls::experiments {
namespace {

constexpr std::size_t kMostPanels = 4;

/// Values of several seeds; the spread is their standard deviation (n - 1).
struct Sample {
  std::vector<double> values;

  double mean() const {
    double m = 0;
    for (const double x : values) {
      m += x / static_cast<double>(values.size());
    }
    return m;
  }
  double spread() const {
    const double m = mean();
    double squares = 0;
    for (const double x : values) {
      squares += (x - m) * (x - m);
    }
    return values.size() > 1 ? std::sqrt(squares / static_cast<double>(values.size() - 1)) : 0;
  }
  std::string str(int digits) const {
    if (values.empty()) {
      return "-";
    }
    return values.size() > 1 ? fmt::format("{:.{}f} ±{:.{}f}", mean(), digits, spread(), digits)
                             : fmt::format("{:.{}f}", mean(), digits);
  }
};

/// One number of an evaluation.
struct Column {
  std::string slice, metric;

  void add_to(Sample& sample, const Evaluation& e) const {
    const auto s = e.slices.find(slice);
    if (s != e.slices.end() && s->second.contains(metric)) {
      sample.values.push_back(s->second.at(metric));
    }
  }
};

/// Of the final evaluation the headline metric of every slice and, for one slice, its tags.
std::vector<Column> columns_of(const RunResult& r) {
  std::vector<Column> out;
  if (r.history.empty()) {
    return out;
  }
  const auto& slices = r.history.back().slices;
  for (const auto& [slice, metrics] : slices) {
    out.push_back({slice, r.metrics.front()});
    for (const auto& [name, value] : metrics) {
      if (slices.size() == 1 && name.find('/') != std::string::npos) {
        out.push_back({slice, name});
      }
    }
  }
  return out;
}

/// The seeds of each model, models in the order of their first result.
std::vector<std::vector<const RunResult*>> by_model(const std::vector<RunResult>& results) {
  std::vector<std::vector<const RunResult*>> groups;
  for (const RunResult& r : results) {
    auto group = std::ranges::find(groups, r.model, [](const auto& g) { return g[0]->model; });
    if (group == groups.end()) {
      group = groups.emplace(groups.end());
    }
    group->push_back(&r);
  }
  return groups;
}

/// A column of one model over training.
Series series_of(const std::vector<const RunResult*>& seeds, const Column& column) {
  std::map<Index, Sample> curve;
  for (const RunResult* r : seeds) {
    for (const Evaluation& e : r->history) {
      column.add_to(curve[e.step], e);
    }
  }
  Series line{.label = seeds[0]->model};
  for (const auto& [step, sample] : curve) {
    if (sample.values.empty()) {
      continue;
    }
    line.x.push_back(static_cast<double>(step));
    line.y.push_back(sample.mean());
    if (sample.values.size() > 1) {
      line.spread.push_back(sample.spread());
    }
  }
  if (line.spread.size() != line.x.size()) {
    line.spread.clear();
  }
  return line;
}

}  // namespace

std::string results_table(const std::vector<RunResult>& results) {
  if (results.empty()) {
    return "";
  }
  const std::vector<Column> columns = columns_of(results.front());
  const bool one_slice = !columns.empty() && results.front().history.back().slices.size() == 1;
  std::vector<std::string> header = {"model", "parameters", "state bytes"};
  for (const Column& c : columns) {
    header.push_back(one_slice ? c.metric : c.slice + " " + c.metric);
  }
  header.insert(header.end(), {"train loss", "tokens/s", "time"});
  Table table(header);
  for (const auto& seeds : by_model(results)) {
    Sample loss, rate, seconds;
    std::vector<Sample> values(columns.size());
    for (const RunResult* r : seeds) {
      loss.values.push_back(r->train_loss);
      rate.values.push_back(r->tokens_per_s);
      seconds.values.push_back(r->train_seconds);
      for (std::size_t c = 0; c < columns.size() && !r->history.empty(); ++c) {
        columns[c].add_to(values[c], r->history.back());
      }
    }
    std::vector<std::string> row = {seeds[0]->model, std::to_string(seeds[0]->parameters),
                                    std::to_string(seeds[0]->state.total())};
    for (const Sample& v : values) {
      row.push_back(v.str(3));
    }
    row.push_back(loss.str(4));
    row.push_back(human_count(rate.mean()));
    row.push_back(human_seconds(seconds.mean()));
    table.add(std::move(row));
  }
  return table.str();
}

std::string results_figure(const std::vector<RunResult>& results, const std::string& directory) {
  std::vector<Column> columns =
      results.empty() ? std::vector<Column>() : columns_of(results.front());
  columns.resize(std::min(columns.size(), kMostPanels));
  if (columns.empty()) {
    return "";
  }
  std::vector<Panel> panels;
  for (const Column& column : columns) {
    Panel& panel = panels.emplace_back(
        Panel{.title = column.slice, .x_label = "update", .y_label = column.metric});
    if (column.metric.find("acc") != std::string::npos) {
      panel.y_max = 1.02;
    }
    for (const auto& seeds : by_model(results)) {
      panel.series.push_back(series_of(seeds, column));
    }
  }
  const std::string why = draw_figure(directory + "/figure", panels);
  if (!why.empty()) {
    log_warn("no figure: " + why);
    return "";
  }
  return directory + "/figure.svg";
}

}  // namespace ls::experiments
