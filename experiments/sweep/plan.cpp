#include "experiments/sweep/plan.h"

#include <algorithm>
#include <map>
#include <set>

#include "experiments/evaluate.h"
#include "experiments/footprint.h"
#include "experiments/model_io.h"
#include "experiments/part.h"
#include "experiments/run.h"
#include "experiments/sweep/match.h"

namespace ls::experiments {
namespace {

constexpr Index kMostRuns = 20000;
constexpr std::size_t kLongestName = 120, kLongestValue = 40;

/// The number of the model that a path is of, nullopt where it is of all or of none.
std::optional<Index> model_of(const std::string& path) {
  const std::string_view begin = "models.";
  if (!path.starts_with(begin)) {
    return std::nullopt;
  }
  const std::string key = path.substr(begin.size(), path.find('.', begin.size()) - begin.size());
  const bool number = !key.empty() && key.find_first_not_of("0123456789") == std::string::npos;
  return number && key.size() < 9 ? std::optional<Index>(std::stoll(key)) : std::nullopt;
}

/// Goes through all choices of one value of each axis, the last axis fastest; false at the end.
bool next(std::vector<Index>& chosen, const std::vector<Index>& sizes) {
  for (std::size_t a = chosen.size(); a-- > 0;) {
    if (++chosen[a] < sizes[a]) {
      return true;
    }
    chosen[a] = 0;
  }
  return false;
}

/// A value as a part of a folder's name: a component by its name, a list with plus signs.
std::string name_of_value(const std::string& value) {
  std::string text = value;
  for (std::size_t at; (at = text.find("{name: ")) != std::string::npos;) {
    text.erase(at, 7);
  }
  std::string out;
  for (const char c : text) {
    const bool plain = std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '-' ||
                       c == '_' || c == '+';
    if (plain) {
      out += c;
    } else if (c == ',' && !out.empty() && out.back() != '+') {
      out += '+';
    } else if (c == ' ' && !out.empty() && out.back() != '+' && out.back() != '_') {
      out += '_';
    }
  }
  return out.substr(0, kLongestValue);
}

/// Of each path its last keys, as many as tell it from the others.
std::vector<std::string> short_names(const std::vector<std::string>& paths) {
  std::vector<std::string> out;
  for (const std::string& path : paths) {
    std::size_t begin = path.rfind('.') + 1;
    const auto shared = [&](const std::string& suffix) {
      return std::ranges::count_if(paths, [&](const std::string& other) {
               return other == suffix || other.ends_with("." + suffix);
             }) > 1;
    };
    while (begin > 1 && shared(path.substr(begin))) {
      begin = path.rfind('.', begin - 2) + 1;
    }
    out.push_back(path.substr(begin));
  }
  return out;
}

std::uint64_t hash_of(const std::string& text) {
  return stream_id(text);
}

/// Tasks of configs, each made once.
class TaskCache {
 public:
  const data::Task& of(const RunConfig& config) {
    RunConfig key;  // of what a task is made of
    key.name = "task";
    key.task = config.task;
    key.state = config.state;
    std::unique_ptr<data::Task>& task = tasks_[dump_json(key)];
    if (!task) {
      task = data::make_task(config.task, {.seed = static_cast<std::uint64_t>(config.seeds.front()),
                                           .stream = config.state.streams()});
    }
    return *task;
  }

 private:
  std::map<std::string, std::unique_ptr<data::Task>> tasks_;
};

class Planner {
 public:
  Planner(const VariedConfig& varied, SweepPlan& plan) : varied_(varied), plan_(plan) {
    places_ = read_config(varied.own(), plan.config);
    check_seeds();
    for (std::size_t a = 0; a < varied.axes().size(); ++a) {
      sizes_.push_back(std::ssize(varied.axes()[a].texts));
    }
    rate_axis_ = varied.axis_of("rates");
    for (std::size_t a = 0; a < varied.axes().size(); ++a) {
      if (static_cast<Index>(a) == rate_axis_) {
        for (const auto& text : varied.axes()[a].texts) {
          plan.rates.push_back(text.front());
        }
      } else {
        for (const std::string& path : varied.axes()[a].paths) {
          plan.paths.push_back(path);
        }
      }
    }
    columns_ = axis_columns(plan.paths);
    std::vector<std::string> names;
    for (const AxisColumn& column : columns_) {
      names.push_back(column.name);
    }
    short_ = short_names(names);
    choose_seeds();
    check_size();
  }

  void run() {
    std::vector<Index> chosen(sizes_.size(), 0);
    std::vector<Index> sizes = sizes_;
    if (rate_axis_ >= 0) {
      sizes[static_cast<std::size_t>(rate_axis_)] = 1;
    }
    do {
      add_cells(chosen);
    } while (next(chosen, sizes));
    name_runs();
  }

 private:
  void check_seeds() const {
    const auto check = [&](const std::vector<Index>& seeds, const char* field) {
      const std::set<Index> unique(seeds.begin(), seeds.end());
      LS_CHECK(unique.size() == seeds.size(), kConfig, "{}: {}: a seed is listed twice",
               places_.where(field), field);
    };
    check(plan_.config.seeds, "seeds");
    check(plan_.config.choice_seeds, "choice_seeds");
  }

  void choose_seeds() {
    std::vector<Index>& choice = plan_.config.choice_seeds;
    if (!plan_.chooses()) {
      choice.clear();  // nothing is chosen, and every seed reported
    } else if (choice.empty()) {
      choice = {plan_.config.seeds.front()};
    }
    for (const Index seed : plan_.config.seeds) {
      if (std::ranges::find(choice, seed) == choice.end()) {
        report_seeds_.push_back(seed);
      }
    }
    LS_CHECK(!report_seeds_.empty(), kConfig,
             "{}: seeds: no seed is left to report: {} of them choose the rate; list more seeds",
             places_.where("seeds"), choice.size());
  }

  void check_size() const {
    double runs = static_cast<double>(plan_.config.choice_seeds.size() + report_seeds_.size());
    for (const Index n : sizes_) {
      runs *= static_cast<double>(n);
    }
    LS_CHECK(runs <= static_cast<double>(kMostRuns), kConfig,
             "{}: axes: {:.4g} runs of each model, at most {} make a sweep; give the axes fewer "
             "values",
             places_.where("axes"), runs, kMostRuns);
  }

  /// The base under these values, and with the sweep's own names.
  RunConfig read(const std::vector<Index>& chosen) const {
    RunConfig config;
    read_config(varied_.tree(chosen, fmt::format("name: {}\n", plan_.config.name)), config);
    config.output = plan_.config.output;
    config.seeds = {plan_.config.seeds.front()};
    validate_run(config);
    LS_CHECK(plan_.config.keep != Keep::kBest || !config.checkpoint.best.empty(), kConfig,
             "{}: keep: best needs checkpoint.best in the base, the metric that it is best by",
             places_.where("keep"));
    return config;
  }

  void add_cells(std::vector<Index> chosen) {
    std::vector<RunConfig> by_rate;
    for (Index r = 0; r < std::max<Index>(1, std::ssize(plan_.rates)); ++r) {
      if (rate_axis_ >= 0) {
        chosen[static_cast<std::size_t>(rate_axis_)] = r;
      }
      by_rate.push_back(read(chosen));
    }
    for (std::size_t m = 0; m < by_rate.front().models.size(); ++m) {
      SweepCell cell{.model = model_labels(by_rate.front())[m], .values = values(chosen, m)};
      for (RunConfig& all : by_rate) {
        LS_CHECK(rate_axis_ < 0 || !all.models[m].lr, kConfig,
                 "{}: rates: model '{}' has an lr of its own, models.{}.lr, which they do not "
                 "change; remove it",
                 varied_.axes()[static_cast<std::size_t>(rate_axis_)].where, cell.model, m);
        LS_CHECK(rate_axis_ < 0 || !plan_.chooses() || !all.eval.max_seconds, kConfig,
                 "{}: rates are compared by evaluations, and which settings eval.max_seconds "
                 "leaves out follows from the clock; limit them by eval.max_tokens or "
                 "eval.max_memory",
                 varied_.axes()[static_cast<std::size_t>(rate_axis_)].where);
        RunConfig& config = cell.configs.emplace_back(all);
        config.models = {all.models[m]};
        config.models.front().name = cell.model;
        if (plan_.config.match) {
          match(config, cell.model);
        }
      }
      if (seen_.emplace(cell.model, cell.values).second) {
        plan_.cells.push_back(std::move(cell));
      }
    }
    several_models_ |= by_rate.front().models.size() > 1;
    plan_.rate_values.clear();
    for (const RunConfig& config : by_rate) {
      plan_.rate_values.push_back(config.lr);
    }
  }

  void match(RunConfig& config, const std::string& model) {
    const ErrorContext context(fmt::format("solving {}", places_.where("match")));
    match_model(*plan_.config.match, config, tasks_.of(config), model);
  }

  /// Of each path its text, but of paths that are of another model.
  std::vector<std::string> values(const std::vector<Index>& chosen, std::size_t model) const {
    std::vector<std::string> out;
    for (std::size_t a = 0; a < chosen.size(); ++a) {
      const ConfigAxis& axis = varied_.axes()[a];
      for (std::size_t p = 0; static_cast<Index>(a) != rate_axis_ && p < axis.paths.size(); ++p) {
        const std::optional<Index> of = model_of(axis.paths[p]);
        const bool mine = !of || *of == static_cast<Index>(model);
        out.push_back(mine ? axis.texts[static_cast<std::size_t>(chosen[a])][p] : "");
      }
    }
    return out;
  }

  /// Has one of its axes several values?
  bool varies(const AxisColumn& column) const {
    std::size_t p = 0;
    bool varies = false;
    for (std::size_t a = 0; a < varied_.axes().size(); ++a) {
      const bool rate = static_cast<Index>(a) == rate_axis_;
      for (std::size_t i = 0; !rate && i < varied_.axes()[a].paths.size(); ++i, ++p) {
        varies |= sizes_[a] > 1 && std::ranges::find(column.paths, p) != column.paths.end();
      }
    }
    return varies;
  }

  std::string name_of(const SweepCell& cell, Index rate, Index seed) const {
    std::string name = several_models_ ? name_of_value(cell.model) : "";
    const auto add = [&](const std::string& key, const std::string& value) {
      name += (name.empty() ? "" : ",") + key + "=" + name_of_value(value);
    };
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const std::string& value = columns_[c].value(cell);
      if (!value.empty() && varies(columns_[c])) {
        add(short_[c], value);
      }
    }
    if (plan_.chooses()) {
      add("lr", plan_.rates[static_cast<std::size_t>(rate)]);
    }
    add("seed", std::to_string(seed));
    return name;
  }

  void name_runs() {
    std::map<std::string, std::string> identity_of;  // name -> run
    for (std::size_t c = 0; c < plan_.cells.size(); ++c) {
      SweepCell& cell = plan_.cells[c];
      for (std::size_t r = 0; r < cell.configs.size(); ++r) {
        const auto runs = [&](const std::vector<Index>& seeds, bool choice) {
          std::vector<SweepRun> out;
          for (const Index seed : seeds) {
            SweepRun run{.config = cell.configs[r],
                         .cell = c,
                         .rate = plan_.rates.empty() ? -1 : static_cast<Index>(r),
                         .choice = choice};
            run.config.seeds = {seed};
            run.identity = run_identity(run.config);
            const std::string whole = name_of(cell, static_cast<Index>(r), seed);
            run.name = whole;
            const auto at = identity_of.find(whole);
            const bool taken = at != identity_of.end() && at->second != run.identity;
            if (taken || whole.size() > kLongestName) {
              run.name = whole.substr(0, kLongestName - 9) +
                         fmt::format("-{:08x}", hash_of(whole + run.identity) & 0xffffffffu);
            }
            identity_of.emplace(run.name, run.identity);
            out.push_back(std::move(run));
          }
          return out;
        };
        cell.choice.push_back(runs(plan_.config.choice_seeds, true));
        cell.report.push_back(runs(report_seeds_, false));
      }
    }
  }

  const VariedConfig& varied_;
  SweepPlan& plan_;
  ConfigPlaces places_;
  std::vector<Index> sizes_, report_seeds_;  // values of each axis
  std::vector<AxisColumn> columns_;
  std::vector<std::string> short_;  // names of the columns in folders
  Index rate_axis_ = -1;
  bool several_models_ = false;
  std::set<std::pair<std::string, std::vector<std::string>>> seen_;  // cells
  TaskCache tasks_;
};

}  // namespace

const std::string& AxisColumn::value(const SweepCell& cell) const {
  const auto at =
      std::ranges::find_if(paths, [&](std::size_t p) { return !cell.values[p].empty(); });
  return cell.values[at == paths.end() ? paths.front() : *at];
}

std::vector<AxisColumn> axis_columns(const std::vector<std::string>& paths) {
  std::vector<AxisColumn> columns;
  for (std::size_t p = 0; p < paths.size(); ++p) {
    const bool of_one = model_of(paths[p]).has_value();
    const std::string rest = of_one ? paths[p].substr(paths[p].find('.', 7) + 1) : paths[p];
    const auto at = std::ranges::find_if(columns, [&](const AxisColumn& c) {
      return of_one && c.name == rest && model_of(paths[c.paths.front()]).has_value();
    });
    if (at == columns.end()) {
      columns.push_back({rest, {p}});
    } else {
      at->paths.push_back(p);
    }
  }
  return columns;
}

const VariedConfig::Keys& sweep_keys() {
  static const VariedConfig::Keys keys{{"rates", "lr"}};
  return keys;
}

Index SweepPlan::size() const {
  Index n = 0;
  for (const SweepCell& cell : cells) {
    for (const auto& runs : cell.choice) {
      n += std::ssize(runs);
    }
    n += std::ssize(cell.report.front());
  }
  return n;
}

SweepPlan plan_sweep(const VariedConfig& varied, const std::string& text) {
  SweepPlan plan;
  plan.text = text;
  Planner(varied, plan).run();
  return plan;
}

void rehearse(const SweepPlan& plan) {
  TaskCache tasks;
  for (const SweepCell& cell : plan.cells) {
    const SweepRun& run = cell.report.front().front();
    const ErrorContext context("building " + run.name);
    const RunConfig& config = run.config;
    device_of(config);
    const data::Task& task = tasks.of(config);
    check_evaluation(task, config);
    check_memory(config, config.models.front(), task, {});
    layers::Model model(config.models.front(), model_interface(task), 0);
    model.measure_state(1);
  }
}

}  // namespace ls::experiments
