#include "experiments/report.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/base/log.h"
#include "experiments/figure.h"
#include "experiments/progress.h"
#include "experiments/sample.h"
#include "experiments/table.h"

namespace ls::experiments {
namespace {

constexpr std::size_t kMostPanels = 12;

/// One number of an evaluation.
struct Column {
  std::string slice, metric;
  bool operator==(const Column&) const = default;

  const double* value(const Evaluation& e) const {
    const SliceResult* s = e.find(slice);
    return s == nullptr ? nullptr : s->metrics.find(metric);
  }
  void add_to(Sample& sample, const Evaluation& e) const {
    if (const double* v = value(e)) {
      sample.values.push_back(*v);
    }
  }
};

template <class T>
void add_new(std::vector<T>& list, const T& value) {
  if (std::ranges::find(list, value) == list.end()) {
    list.push_back(value);
  }
}

bool is_tag(const std::string& metric) {
  return metric.find('/') != std::string::npos;
}

/// The slices of all final evaluations, each once, as the first that has it found it.
std::vector<SliceResult> slices_of(const std::vector<RunResult>& results) {
  std::vector<SliceResult> out;
  for (const RunResult& r : results) {
    for (const SliceResult& s :
         r.history.empty() ? std::vector<SliceResult>() : r.history.back().slices) {
      if (std::ranges::find(out, s.name, &SliceResult::name) == out.end()) {
        out.push_back(s);
      }
    }
  }
  return out;
}

/// What the table shows of the final evaluations, and the names of the other metrics.
struct Columns {
  std::vector<Column> shown;
  std::vector<std::string> others;
  bool one_slice = false;
};

/// The headline metric of every slice and, where there is one slice, its tags.
Columns columns_of(const std::vector<RunResult>& results) {
  Columns out;
  const std::vector<SliceResult> slices = slices_of(results);
  out.one_slice = slices.size() == 1;
  for (const SliceResult& slice : slices) {
    add_new(out.shown, {slice.name, results.front().metrics.front()});
    for (const RunResult& r : results) {
      const SliceResult* s = r.history.empty() ? nullptr : r.history.back().find(slice.name);
      for (const auto& [name, value] : s == nullptr ? Metrics().values : s->metrics.values) {
        if (out.one_slice && is_tag(name)) {
          add_new(out.shown, {slice.name, name});
        } else if (name != results.front().metrics.front()) {
          add_new(out.others, name);
        }
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

/// Mean over seeds of what `collect` adds to samples by x.
template <class Collect>
Series series_of(const std::vector<const RunResult*>& seeds, const Style& style, Collect collect) {
  std::map<double, Sample> curve;
  for (const RunResult* r : seeds) {
    collect(*r, curve);
  }
  Series line{.label = seeds[0]->model, .style = style};
  for (const auto& [x, sample] : curve) {
    line.x.push_back(x);
    line.y.push_back(sample.mean());
    line.low.push_back(sample.mean() - sample.spread());
    line.high.push_back(sample.mean() + sample.spread());
  }
  const bool several =
      std::ranges::any_of(curve, [](const auto& point) { return point.second.values.size() > 1; });
  if (!several) {
    line.low.clear();
    line.high.clear();
  }
  return line;
}

std::vector<Style> model_styles(const std::vector<std::vector<const RunResult*>>& models) {
  std::vector<std::string> mixers;
  for (const auto& seeds : models) {
    mixers.push_back(seeds.front()->mixers());
  }
  return styles_of(mixers);
}

Panel panel_of(const std::string& title, const std::string& x, const std::string& metric) {
  Panel panel{.title = title, .x_label = x, .y_label = metric};
  if (metric.find("acc") != std::string::npos) {
    panel.y_max = 1.02;
  }
  return panel;
}

/// A column over training: a line through validations, a mark for a test at the end.
Panel curve_panel(const std::vector<std::vector<const RunResult*>>& models, const Column& column) {
  Panel panel = panel_of(column.slice, "update", column.metric);
  const std::vector<Style> styles = model_styles(models);
  bool lines = false, marks = false;
  for (std::size_t m = 0; m < models.size(); ++m) {
    const auto of_split = [&](bool test) {
      return series_of(
          models[m], styles[m], [&](const RunResult& r, std::map<double, Sample>& curve) {
            for (const Evaluation& e : r.history) {
              if ((e.split == data::Split::kTest) == test && column.value(e) != nullptr) {
                column.add_to(curve[static_cast<double>(e.step)], e);
              }
            }
          });
    };
    Series line = of_split(false), mark = of_split(true);
    mark.drawn = Drawn::kMarks;
    mark.hollow = true;
    mark.label = line.x.empty() ? mark.label : "";
    lines |= !line.x.empty();
    marks |= !mark.x.empty();
    for (Series* s : {&line, &mark}) {
      if (!s->x.empty()) {
        panel.series.push_back(std::move(*s));
      }
    }
  }
  if (marks) {
    panel.title += lines ? " (lines: validation, marks: test)" : " (test)";
  }
  return panel;
}

std::string setting_text(const data::SliceSetting& setting) {
  std::string text;
  for (const auto& [name, value] : setting) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, value);
  }
  return text;
}

/// The headline metric against length, for every setting that was measured at several lengths.
std::vector<Panel> length_panels(const std::vector<RunResult>& results,
                                 const std::vector<std::vector<const RunResult*>>& models) {
  std::vector<Panel> panels;
  const std::vector<Style> styles = model_styles(models);
  const std::vector<SliceResult> slices = slices_of(results);
  std::vector<data::SliceSetting> settings;
  for (const SliceResult& s : slices) {
    add_new(settings, s.setting);
  }
  for (const data::SliceSetting& setting : settings) {
    std::set<Index> lengths;
    for (const SliceResult& s : slices) {
      if (s.setting == setting) {
        lengths.insert(s.length);
      }
    }
    if (lengths.size() < 2) {
      continue;
    }
    const std::string metric = results.front().metrics.front();
    Panel& panel = panels.emplace_back(panel_of(setting_text(setting), "length in tokens", metric));
    panel.title = panel.title.empty() ? "after training" : panel.title;
    panel.x_log = true;
    panel.x_unit = AxisUnit::kTokens;
    panel.x_mark = static_cast<double>(results.front().train_length);
    for (std::size_t m = 0; m < models.size(); ++m) {
      panel.series.push_back(
          series_of(models[m], styles[m], [&](const RunResult& r, std::map<double, Sample>& curve) {
            for (const SliceResult& s :
                 r.history.empty() ? std::vector<SliceResult>() : r.history.back().slices) {
              if (s.setting == setting) {
                Column{s.name, metric}.add_to(curve[static_cast<double>(s.length)],
                                              r.history.back());
              }
            }
          }));
    }
  }
  return panels;
}

/// Loss and accuracy of every slice by position.
std::vector<Panel> position_panels(const std::vector<RunResult>& results,
                                   const std::vector<std::vector<const RunResult*>>& models) {
  std::vector<Panel> panels;
  const std::vector<Style> styles = model_styles(models);
  for (const SliceResult& slice : slices_of(results)) {
    for (const bool loss : {true, false}) {
      Panel& panel =
          panels.emplace_back(panel_of(slice.name, "tokens read", loss ? "loss" : "tok_acc"));
      panel.x_log = true;
      panel.x_unit = AxisUnit::kTokens;
      panel.x_mark = static_cast<double>(results.front().train_length);
      for (std::size_t m = 0; m < models.size(); ++m) {
        panel.series.push_back(series_of(
            models[m], styles[m], [&](const RunResult& r, std::map<double, Sample>& curve) {
              const SliceResult* s =
                  r.history.empty() ? nullptr : r.history.back().find(slice.name);
              for (const PositionRange& p :
                   s == nullptr ? std::vector<PositionRange>() : s->positions) {
                // The last range ends with the slice; those of a carried one lie beyond it.
                const auto last =
                    static_cast<double>(p.from <= s->length ? std::min(p.to, s->length) : p.to);
                const double middle = std::sqrt(static_cast<double>(p.from) * last);
                curve[middle].values.push_back(loss ? p.loss : p.accuracy);
              }
            }));
      }
    }
  }
  return panels;
}

/// Draws the first panels; the path, or "" with a warning that says why there is none.
std::string draw(const std::string& path, std::vector<Panel> panels, std::size_t most_columns) {
  if (panels.empty()) {
    return "";
  }
  std::string note;
  if (panels.size() > kMostPanels) {
    note =
        fmt::format("{} of {} panels are left out: ", panels.size() - kMostPanels, panels.size());
    for (std::size_t i = kMostPanels; i < panels.size(); ++i) {
      note +=
          fmt::format("{}{} {}", i == kMostPanels ? "" : ", ", panels[i].title, panels[i].y_label);
    }
    log_warn(path + ".svg: " + note);
    panels.resize(kMostPanels);
  }
  const std::string why = draw_figure(path, panels, {.note = note, .most_columns = most_columns});
  if (!why.empty()) {
    log_warn("no figure: " + why);
    return "";
  }
  return path + ".svg";
}

}  // namespace

std::string results_table(const std::vector<RunResult>& results, int width) {
  if (results.empty()) {
    return "";
  }
  const Columns columns = columns_of(results);
  std::vector<std::string> header = {"model", "parameters", "state bytes"};
  for (const Column& c : columns.shown) {
    header.push_back(columns.one_slice ? c.metric : c.slice + " " + c.metric);
  }
  header.insert(header.end(), {"train loss", "tokens/s", "time"});
  Table table(header);
  for (const auto& seeds : by_model(results)) {
    Sample loss, rate, seconds;
    std::vector<Sample> values(columns.shown.size());
    for (const RunResult* r : seeds) {
      loss.values.push_back(r->train_loss);
      rate.values.push_back(r->tokens_per_s);
      seconds.values.push_back(r->train_seconds);
      for (std::size_t c = 0; c < values.size() && !r->history.empty(); ++c) {
        columns.shown[c].add_to(values[c], r->history.back());
      }
    }
    const auto if_model = [&](const std::string& text) {  // a baseline has no parameters
      return seeds[0]->parameters > 0 ? text : "-";
    };
    std::vector<std::string> row = {seeds[0]->model, if_model(std::to_string(seeds[0]->parameters)),
                                    if_model(std::to_string(seeds[0]->state.total()))};
    for (const Sample& v : values) {
      row.push_back(v.str(3));
    }
    row.push_back(if_model(loss.str(4)));
    row.push_back(if_model(human_count(rate.mean())));
    row.push_back(if_model(human_seconds(seconds.mean())));
    table.add(std::move(row));
  }
  std::string early;
  for (const RunResult& r : results) {
    if (r.stopped_early) {
      early +=
          fmt::format("{} seed {} stopped early, after {} updates\n", r.model, r.seed, r.steps);
    }
  }
  std::string others;
  for (const std::string& name : columns.others) {
    others += (others.empty() ? "" : ", ") + name;
  }
  return table.str(width) + early +
         (others.empty() ? "" : "also in run.h5, and by position: " + others + "\n");
}

std::vector<Panel> results_panels(const std::vector<RunResult>& results) {
  if (results.empty()) {
    return {};
  }
  const auto models = by_model(results);
  std::vector<Panel> panels = length_panels(results, models);
  for (const Column& column : columns_of(results).shown) {
    panels.push_back(curve_panel(models, column));
  }
  return panels;
}

std::vector<Panel> positions_panels(const std::vector<RunResult>& results) {
  return results.empty() ? std::vector<Panel>() : position_panels(results, by_model(results));
}

std::vector<std::string> results_figures(const std::vector<RunResult>& results,
                                         const std::string& directory) {
  std::vector<std::string> paths;
  for (const std::string& path : {draw(directory + "/figure", results_panels(results), 3),
                                  draw(directory + "/positions", positions_panels(results), 2)}) {
    if (!path.empty()) {
      paths.push_back(path);
    }
  }
  return paths;
}

std::string positions_figure(const RunResult& result, const std::string& path) {
  return draw(path, positions_panels({result}), 2);
}

}  // namespace ls::experiments
