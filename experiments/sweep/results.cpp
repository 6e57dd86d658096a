#include "experiments/sweep/results.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "experiments/evaluate.h"
#include "experiments/progress.h"
#include "experiments/sample.h"
#include "experiments/table.h"

namespace ls::experiments {
namespace {

std::string csv_cell(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) {
    return text;
  }
  std::string out = "\"";
  for (const char c : text) {
    out += c == '"' ? "\"\"" : std::string(1, c);
  }
  return out + "\"";
}

std::string fact(const Provenance& provenance, const std::string& name) {
  const auto at = std::ranges::find(provenance, name, &Provenance::value_type::first);
  return at == provenance.end() ? "" : at->second;
}

/// To the last bit; nothing where it is no number.
std::string number(double x) {
  return std::isfinite(x) ? fmt::format("{}", x) : "";
}

std::string setting_text(const data::SliceSetting& setting) {
  std::string text;
  for (const auto& [name, value] : setting) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, value);
  }
  return text;
}

/// Calls f(cell, run, choice of the cell) for the runs of the plan that have ended.
template <class F>
void for_each_ended(const SweepPlan& plan, const SweepFolder& folder, F&& f) {
  for (const SweepCell& cell : plan.cells) {
    const RateChoice choice = choose_rate(plan, cell, folder);
    const auto runs = [&](const std::vector<SweepRun>& of_rate) {
      for (const SweepRun& run : of_rate) {
        if (const EndedRun* ended = folder.ended(run)) {
          f(cell, run, *ended, choice);
        }
      }
    };
    std::ranges::for_each(cell.choice, runs);
    if (choice.known && choice.rate >= 0) {
      runs(cell.report[static_cast<std::size_t>(choice.rate)]);
    }
  }
}

/// The best mean over slices of the task's first metric in any validation of the cell.
double published(const SweepCell& cell, const SweepFolder& folder) {
  double best = NAN;
  const auto look = [&](const std::vector<SweepRun>& runs) {
    for (const SweepRun& run : runs) {
      const EndedRun* ended = folder.ended(run);
      for (const Evaluation& e :
           ended != nullptr && ended->result ? ended->result->history : std::vector<Evaluation>()) {
        const std::string& metric = ended->result->metrics.front();
        const double value = mean_metric(e, metric);
        const bool counts = e.split == data::Split::kValid && std::isfinite(value);
        if (counts && (std::isnan(best) || is_better(metric, value, best))) {
          best = value;
        }
      }
    }
  };
  std::ranges::for_each(cell.choice, look);
  std::ranges::for_each(cell.report, look);
  return best;
}

/// Names and values of one line of CSV.
using Line = std::vector<std::pair<std::string, std::string>>;

const layers::StateBytes* state_at(const RunResult& r, Index tokens) {
  const auto at = std::ranges::find(r.state_sizes, tokens, &StateSize::tokens);
  return at == r.state_sizes.end() ? nullptr : &at->bytes;
}

class Csv {
 public:
  explicit Csv(const SweepPlan& plan, const SweepFolder& folder) : plan_(plan) {
    for_each_ended(plan, folder, [&](const auto&, const auto&, const EndedRun& ended, const auto&) {
      for (const Evaluation& e : ended.result ? ended.result->history : std::vector<Evaluation>()) {
        for (const SliceResult& s : e.slices) {
          for (const auto& [name, value] : s.metrics.values) {
            if (std::ranges::find(metrics_, name) == metrics_.end()) {
              metrics_.push_back(name);
            }
          }
        }
      }
    });
    add(line({}, {}, nullptr, {}, nullptr, nullptr, 0), true);
    for_each_ended(plan, folder,
                   [&](const SweepCell& cell, const SweepRun& run, const EndedRun& ended,
                       const RateChoice& choice) {
                     add_run(cell, run, ended, choice, published(cell, folder));
                   });
  }
  std::string text() const { return text_; }

 private:
  void add_run(const SweepCell& cell, const SweepRun& run, const EndedRun& ended,
               const RateChoice& choice, double best) {
    if (!ended.result) {
      return add(line(cell, run, &ended, choice, nullptr, nullptr, best), false);
    }
    for (const Evaluation& e : ended.result->history) {
      for (const SliceResult& s :
           e.step == ended.result->steps ? e.slices : std::vector<SliceResult>()) {
        add(line(cell, run, &ended, choice, &e, &s, best), false);
      }
    }
  }

  Line line(const SweepCell& cell, const SweepRun& run, const EndedRun* ended,
            const RateChoice& choice, const Evaluation* e, const SliceResult* slice,
            double best) const {
    Line out;
    const bool header = ended == nullptr;
    const auto put = [&](const std::string& name, const std::function<std::string()>& value) {
      out.emplace_back(name, header ? "" : value());
    };
    const auto of_slice = [&](const std::string& name, const std::function<std::string()>& value) {
      out.emplace_back(name, slice == nullptr ? "" : value());
    };
    const auto rate = static_cast<std::size_t>(std::max<Index>(0, run.rate));
    put("run", [&] { return ended->name; });
    for (std::size_t p = 0; p < plan_.paths.size(); ++p) {
      put(plan_.paths[p], [&] { return cell.values[p]; });
    }
    put("model", [&] { return cell.model; });
    put("task", [&] { return run.config.task.name(); });
    of_slice("T", [&] { return std::to_string(slice->length); });
    of_slice("K", [&] {
      const auto at =
          std::ranges::find(slice->setting, "pairs", &std::pair<std::string, Index>::first);
      return at == slice->setting.end() ? "" : std::to_string(at->second);
    });
    of_slice("setting", [&] { return setting_text(slice->setting); });
    put("seed", [&] { return std::to_string(run.seed()); });
    put("rate", [&] { return number(run.config.models.front().lr.value_or(run.config.lr)); });
    put("role", [&] { return run.choice ? "choice" : "report"; });
    const bool chosen = choice.known && choice.rate == static_cast<Index>(rate);
    put("chosen", [&] { return chosen ? "yes" : "no"; });
    put("edge", [&] { return chosen && choice.edge ? "yes" : "no"; });
    put("status", [&] { return ended->result ? "finished" : "failed"; });
    put("step", [&] { return ended->result ? std::to_string(ended->result->steps) : ""; });
    of_slice("split", [&] { return std::string(enum_name(e->split)); });
    of_slice("slice", [&] { return slice->name; });
    for (const std::string& metric : metrics_) {
      of_slice(metric, [&] {
        const double* value = slice->metrics.find(metric);
        return value == nullptr ? "" : number(*value);
      });
    }
    put("published", [&] { return number(best); });
    of_slice("examples", [&] { return std::to_string(slice->examples); });
    of_slice("labels", [&] { return std::to_string(slice->labels); });
    of_slice("left_out", [&] { return std::to_string(slice->left_out); });
    of_slice("not_run", [&] { return slice->not_run; });
    put_sizes(put, ended, slice);
    return out;
  }

  template <class Put>
  static void put_sizes(const Put& put, const EndedRun* ended, const SliceResult* slice) {
    const RunResult* r = ended != nullptr && ended->result ? &*ended->result : nullptr;
    const layers::StateBytes* state =
        r != nullptr && slice != nullptr ? state_at(*r, slice->length) : nullptr;
    const auto of_result = [&](const char* name, auto&& value) {
      put(name, [&] { return r == nullptr ? std::string() : fmt::format("{}", value(*r)); });
    };
    of_result("parameters", [](const RunResult& x) { return x.parameters; });
    for (const auto& [name, part] :
         std::initializer_list<std::pair<const char*, Index layers::StateBytes::*>>{
             {"state_matrix", &layers::StateBytes::matrix},
             {"state_vector", &layers::StateBytes::vector},
             {"state_conv", &layers::StateBytes::conv},
             {"state_kv", &layers::StateBytes::kv}}) {
      put(name, [&] { return state == nullptr ? "" : std::to_string(state->*part); });
    }
    put("state_total", [&] { return state == nullptr ? "" : std::to_string(state->total()); });
    of_result("zoology_state", [](const RunResult& x) { return x.zoology_state; });
    of_result("tokens", [](const RunResult& x) { return x.tokens; });
    of_result("seconds", [](const RunResult& x) { return fmt::format("{:.3f}", x.wall_seconds); });
    of_result("memory", [](const RunResult& x) { return x.memory_bytes; });
    for (const char* name : {"host", "device", "commit"}) {
      put(name, [&] { return fact(ended->provenance, name); });
    }
    of_result("early", [](const RunResult& x) { return x.stopped_early ? "yes" : "no"; });
    put("error", [&] {
      std::string line = ended->error;  // of several lines
      std::ranges::replace(line, '\n', ' ');
      return line;
    });
  }

  void add(const Line& line, bool header) {
    std::vector<std::string> cells;
    for (const auto& [name, value] : line) {
      cells.push_back(csv_cell(header ? name : value));
    }
    text_ += fmt::format("{}\n", fmt::join(cells, ","));
  }

  const SweepPlan& plan_;
  std::vector<std::string> metrics_;
  std::string text_;
};

/// What stands above the table.
std::string remarks(const SweepPlan& plan, const SweepFolder& folder) {
  const OpenRuns open = open_runs(plan, folder);
  const Index missing = std::ssize(open.runs) + open.later;
  std::set<std::string> commits;
  std::string failed;
  Index failures = 0;
  for_each_ended(plan, folder, [&](const auto&, const auto&, const EndedRun& ended, const auto&) {
    commits.insert(fact(ended.provenance, "commit"));
    if (!ended.result) {
      constexpr Index kMostNamed = 8;
      failed += ++failures <= kMostNamed
                    ? fmt::format("failed: {}: {}\n", ended.name,
                                  ended.error.substr(0, ended.error.find('\n')))
                    : "";
    }
  });
  std::string text =
      missing > 0 ? fmt::format("partial: {} of {} runs are missing\n", missing, plan.size()) : "";
  if (failures > 0) {
    text += fmt::format("{} runs failed\n", failures) + failed;
  }
  if (commits.size() > 1) {
    text += fmt::format("MIXED COMMITS: {}; --redo changed repeats what this build did not make\n",
                        fmt::join(commits, ", "));
  }
  return text;
}

/// The columns whose values differ between cells.
std::vector<AxisColumn> varied_columns(const SweepPlan& plan) {
  std::vector<AxisColumn> shown;
  for (AxisColumn& column : axis_columns(plan.paths)) {
    std::set<std::string> values;
    for (const SweepCell& cell : plan.cells) {
      values.insert(column.value(cell));
    }
    if (values.size() > 1) {
      shown.push_back(std::move(column));
    }
  }
  return shown;
}

/// The end of a cell's row: seeds, parameters, state bytes, the metric, the published convention.
struct CellSummary {
  std::string metric;
  std::vector<std::string> row;
};
CellSummary summary_of(const SweepCell& cell, const RateChoice& choice, const SweepFolder& folder) {
  CellSummary out;
  Sample sample;
  const RunResult* first = nullptr;
  for (const SweepRun& run : choice.rate < 0 ? std::vector<SweepRun>()
                                             : cell.report[static_cast<std::size_t>(choice.rate)]) {
    const EndedRun* ended = folder.ended(run);
    const Evaluation* e = ended != nullptr && ended->result ? reported(*ended->result) : nullptr;
    if (e != nullptr) {
      first = first == nullptr ? &*ended->result : first;
      out.metric = ended->result->metrics.front();
      sample.values.push_back(mean_metric(*e, out.metric));
    }
  }
  const double best = published(cell, folder);
  out.row = {std::to_string(sample.values.size()),
             first == nullptr ? "-" : std::to_string(first->parameters),
             first == nullptr || first->state_sizes.empty()
                 ? "-"
                 : std::to_string(first->state_sizes.back().bytes.total()),
             sample.str(3), std::isnan(best) ? "-" : fmt::format("{:.3f}", best)};
  return out;
}

}  // namespace

const Evaluation* reported(const RunResult& r) {
  const Evaluation* found = nullptr;
  for (const Evaluation& e : r.history) {
    const bool better =
        found == nullptr || e.split == data::Split::kTest || found->split != data::Split::kTest;
    found = e.step == r.steps && better ? &e : found;
  }
  return found;
}

std::string results_csv(const SweepPlan& plan, const SweepFolder& folder) {
  return Csv(plan, folder).text();
}

std::string sweep_table(const SweepPlan& plan, const SweepFolder& folder, int width) {
  const std::vector<AxisColumn> shown = varied_columns(plan);
  std::vector<std::vector<std::string>> rows;
  std::string metric = "metric";
  bool edges = false;
  for (const SweepCell& cell : plan.cells) {
    const RateChoice choice = choose_rate(plan, cell, folder);
    if (!choice.known) {
      continue;
    }
    std::vector<std::string>& row = rows.emplace_back(std::vector{cell.model});
    for (const AxisColumn& column : shown) {
      row.push_back(column.value(cell).empty() ? "-" : column.value(cell));
    }
    if (plan.chooses()) {
      row.push_back(choice.rate < 0 ? "none"
                                    : plan.rates[static_cast<std::size_t>(choice.rate)] +
                                          (choice.edge ? " *" : ""));
      edges |= choice.edge;
    }
    const CellSummary summary = summary_of(cell, choice, folder);
    metric = summary.metric.empty() ? metric : summary.metric;
    row.insert(row.end(), summary.row.begin(), summary.row.end());
  }
  std::vector<std::string> header = {"model"};
  for (const AxisColumn& column : shown) {
    header.push_back(column.name);
  }
  if (plan.chooses()) {
    header.emplace_back("rate");
  }
  header.insert(header.end(), {"seeds", "parameters", "state bytes", metric, "published"});
  Table table(header);
  for (std::vector<std::string>& row : rows) {
    table.add(std::move(row));
  }
  std::string notes =
      "state bytes: at the longest length; published: best validation over rates, evaluations and "
      "seeds\n";
  Index early = 0;
  for_each_ended(plan, folder, [&](const auto&, const auto&, const EndedRun& ended, const auto&) {
    early += ended.result && ended.result->stopped_early;
  });
  notes += early > 0 ? fmt::format("{} runs stopped early, by stop.patience\n", early) : "";
  notes += edges ? "*: the lowest or highest rate of the grid: a better one may lie beyond\n" : "";
  return fitted(remarks(plan, folder), width) + table.str(width) + fitted(notes, width);
}

}  // namespace ls::experiments
