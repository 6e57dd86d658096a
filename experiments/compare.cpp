#include "experiments/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/base/log.h"
#include "core/config/compare.h"
#include "core/io/files.h"
#include "experiments/evaluate.h"
#include "experiments/figure.h"
#include "experiments/run.h"
#include "experiments/run_file.h"
#include "experiments/table.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;
constexpr std::size_t kMostRows = 12;  // of the table of curves

/// The config of the run alone: its model, its seed.
RunConfig config_of(const ComparedRun& run) {
  RunConfig config = stored_config(run.result.config, run.path + " (stored config)");
  const std::vector<std::string> labels = model_labels(config);
  const auto at = std::ranges::find(labels, run.result.model);
  LS_CHECK(at != labels.end(), kIo, "{}: its config has no model '{}'", run.path, run.result.model);
  const RunModel model = config.models[static_cast<std::size_t>(at - labels.begin())];
  config.models = {model};
  config.seeds = {static_cast<Index>(run.result.seed)};
  return config;
}

std::string shown(const double* value) {
  return value == nullptr || std::isnan(*value) ? "-" : fmt::format("{:.4f}", *value);
}

/// Of the evaluations after the last update.
std::string last_evaluations(const ComparedRun& a, const ComparedRun& b, int width) {
  Table table({"split", "slice", "metric", "A", "B", "B - A"});
  const auto find = [](const RunResult& r, data::Split split, const std::string& slice,
                       const std::string& metric) -> const double* {
    const double* value = nullptr;
    for (const Evaluation& e : r.history) {
      const SliceResult* s = e.split == split && e.step == r.steps ? e.find(slice) : nullptr;
      value = s == nullptr ? value : s->metrics.find(metric);
    }
    return value;
  };
  std::set<std::string> seen;
  for (const RunResult* r : {&a.result, &b.result}) {
    for (const Evaluation& e : r->history) {
      for (const SliceResult& s : e.step == r->steps ? e.slices : std::vector<SliceResult>()) {
        for (const auto& [metric, ignored] : s.metrics.values) {
          const std::string split(enum_name(e.split));
          if (!seen.insert(split + "\n" + s.name + "\n" + metric).second) {
            continue;
          }
          const double *x = find(a.result, e.split, s.name, metric),
                       *y = find(b.result, e.split, s.name, metric);
          const double difference = x != nullptr && y != nullptr ? *y - *x : NAN;
          table.add({split, s.name, metric, shown(x), shown(y),
                     std::isnan(difference) ? "-" : fmt::format("{:+.4f}", difference)});
        }
      }
    }
  }
  return table.str(width);
}

/// Loss of training at or before an update.
const double* loss_at(const ComparedRun& run, Index step) {
  const auto after =
      std::ranges::upper_bound(run.losses, step, {}, &std::pair<Index, double>::first);
  return after == run.losses.begin() || run.losses.back().first < step ? nullptr
                                                                       : &std::prev(after)->second;
}

/// Mean over the slices of the first metric, at each validation.
std::vector<std::pair<Index, double>> validations(const ComparedRun& run) {
  std::vector<std::pair<Index, double>> out;
  for (const Evaluation& e : run.result.history) {
    if (e.split == data::Split::kValid) {
      out.emplace_back(e.step, mean_metric(e, run.result.metrics.front()));
    }
  }
  return out;
}

const double* value_at(const std::vector<std::pair<Index, double>>& curve, Index step) {
  const auto at = std::ranges::find(curve, step, &std::pair<Index, double>::first);
  return at == curve.end() ? nullptr : &at->second;
}

std::string curves(const ComparedRun& a, const ComparedRun& b, int width) {
  const auto valid_a = validations(a), valid_b = validations(b);
  std::set<Index> steps;
  for (const auto* curve : {&valid_a, &valid_b}) {
    for (const auto& [step, value] : *curve) {
      steps.insert(step);
    }
  }
  if (steps.size() < 2) {
    for (const auto& [step, value] : a.losses) {
      steps.insert(step);
    }
  }
  const std::vector<Index> all(steps.begin(), steps.end());
  const std::string metric = "valid " + a.result.metrics.front();
  Table table({"update", "train loss A", "B", metric + " A", "B"});
  const std::size_t rows = std::min(kMostRows, all.size());
  for (std::size_t i = 0; i < rows; ++i) {
    const Index step = all[rows == 1 ? 0 : i * (all.size() - 1) / (rows - 1)];
    table.add({std::to_string(step), shown(loss_at(a, step)), shown(loss_at(b, step)),
               shown(value_at(valid_a, step)), shown(value_at(valid_b, step))});
  }
  return table.str(width);
}

}  // namespace

ComparedRun load_compared(const std::string& path) {
  ComparedRun run{.path = path};
  fs::path folder = path;
  if (folder.filename() == "run.h5" || folder.filename() == "result.json") {
    folder = folder.parent_path();
  }
  std::error_code error;
  if (!has_run_record(folder.string())) {
    std::vector<std::string> below;
    for (const auto& entry : fs::recursive_directory_iterator(folder, error)) {
      if (entry.is_directory(error) && has_run_record(entry.path().string()) && below.size() < 8) {
        below.push_back(entry.path().string());
      }
    }
    std::ranges::sort(below);
    LS_FAIL(kIo, "{}: is not the folder of a run that has saved anything (it has no run.h5){}",
            path, below.empty() ? "" : fmt::format("; below it are {}", fmt::join(below, ", ")));
  }
  RunRecord record = read_run_record(folder.string());
  run.result = std::move(record.result);
  for (const LogLine& line : record.log) {
    if (std::isfinite(line.loss)) {
      run.losses.emplace_back(static_cast<Index>(line.step), line.loss);
    }
  }
  return run;
}

std::string comparison(const ComparedRun& a, const ComparedRun& b, int width) {
  std::string text = fmt::format("A  {}  {} seed {}\nB  {}  {} seed {}\n\n", a.path, a.result.model,
                                 a.result.seed, b.path, b.result.model, b.result.seed);
  const std::vector<FieldChange> changes = changed_fields(config_of(a), config_of(b));
  Table fields({"field", "A", "B"});
  for (const FieldChange& c : changes) {
    fields.add(
        {c.path, c.before.empty() ? "nothing" : c.before, c.after.empty() ? "nothing" : c.after});
  }
  text += changes.empty() ? "no field of the configs differs\n" : fields.str(width);
  Table facts({"made by", "A", "B"});
  bool differ = false;
  for (const auto& [name, value] : a.result.provenance) {
    const auto other = std::ranges::find(b.result.provenance, name, &Provenance::value_type::first);
    if (other != b.result.provenance.end() && other->second != value && name != "started") {
      facts.add({name, value, other->second});
      differ = true;
    }
  }
  text += differ ? "\n" + facts.str(width) : "";
  Table sizes({"", "A", "B"});
  const auto row = [&](const char* name, auto&& of) {
    sizes.add({name, of(a.result), of(b.result)});
  };
  row("parameters", [](const RunResult& r) { return std::to_string(r.parameters); });
  row("state bytes", [](const RunResult& r) { return std::to_string(r.state.total()); });
  row("updates", [](const RunResult& r) { return std::to_string(r.steps); });
  row("tokens", [](const RunResult& r) { return std::to_string(r.tokens); });
  row("seconds", [](const RunResult& r) { return fmt::format("{:.1f}", r.train_seconds); });
  return text + "\n" + sizes.str(width) + "\n" + last_evaluations(a, b, width) + "\n" +
         curves(a, b, width);
}

std::string comparison_figure(const ComparedRun& a, const ComparedRun& b, const std::string& path) {
  const auto series = [](const std::string& label, const auto& curve) {
    Series s{.label = label};
    for (const auto& [step, value] : curve) {
      s.x.push_back(static_cast<double>(step));
      s.y.push_back(value);
    }
    return s;
  };
  const std::string a_label = "A " + a.path, b_label = "B " + b.path;
  const std::vector<Panel> panels = {
      {.title = "training",
       .x_label = "update",
       .y_label = "loss",
       .series = {series(a_label, a.losses), series(b_label, b.losses)}},
      {.title = "validation",
       .x_label = "update",
       .y_label = a.result.metrics.front(),
       .series = {series(a_label, validations(a)), series(b_label, validations(b))}}};
  const std::string fault = draw_figure(path, panels, {.most_columns = 2});
  if (!fault.empty()) {
    log_warn("no figure: " + fault);
    return "";
  }
  return path + ".svg";
}

}  // namespace ls::experiments
