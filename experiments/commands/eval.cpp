#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "experiments/commands/command.h"
#include "experiments/evaluate.h"
#include "experiments/load.h"
#include "experiments/progress.h"
#include "experiments/report.h"
#include "experiments/table.h"

namespace ls::experiments {
namespace {

/// Notes the fields of a config that say what is tested.
class TestFields final : public FieldVisitor {
 public:
  std::vector<std::string> names;

 protected:
  void field(std::string_view name, const Value&, const FieldOptions&) override {
    if (name.starts_with("test")) {
      names.emplace_back(name);
    }
  }
};

/// "task.test_lengths (bytes, parity)", of all tasks that there are.
std::string test_fields() {
  const ComponentCatalog& tasks = data::Task::registry();
  std::map<std::string, std::string> by_field;
  for (const std::string& task : tasks.names()) {
    TestFields found;
    tasks.new_config(task)->visit(found);
    for (const std::string& name : found.names) {
      std::string& list = by_field[name];
      list += (list.empty() ? "" : ", ") + task;
    }
  }
  std::string text;
  for (const auto& [field, list] : by_field) {
    text += fmt::format("{}task.{} ({})", text.empty() ? "" : ", ", field, list);
  }
  return text;
}

class Eval final : public Command {
 public:
  static constexpr int kPlace = 20;
  void options(Options& o) override {
    o("checkpoint", checkpoint_, {.help = "checkpoint file", .required = true});
    o("--split", split_, {.help = "examples to use", .choices = {"valid", "test"}});
    o("--set", overrides_,
      {.help = "a.b=c: override a field of the stored config; what the tasks are tested on: " +
               test_fields()});
    o("--device", device_,
      {.help = "where the model runs: cpu, cuda, cuda:N or auto; empty: as it was trained"});
    o("--json", json_, {.help = "print one line of JSON"});
    o("--figure", figure_, {.help = "draw loss and accuracy by position into this file (.svg)"});
  }
  int run(parallel::RankEnv& env) override;

 private:
  std::string checkpoint_;
  data::Split split_ = data::Split::kTest;
  std::vector<std::string> overrides_;
  bool json_ = false;
  std::string figure_, device_;
};

/// One row a slice: length, setting, labels, and the union of all metrics, in the terminal's width.
std::string evaluation_table(const Evaluation& e) {
  std::vector<std::string> settings, metrics;
  const auto add = [](std::vector<std::string>& names, const auto& pairs) {
    for (const auto& [name, value] : pairs) {
      if (std::ranges::find(names, name) == names.end()) {
        names.push_back(name);
      }
    }
  };
  for (const SliceResult& s : e.slices) {
    add(settings, s.setting);
    add(metrics, s.metrics.values);
  }
  std::vector<std::string> header = {fmt::format("{} slice", enum_name(e.split)), "length"};
  header.insert(header.end(), settings.begin(), settings.end());
  header.emplace_back("labels");
  header.insert(header.end(), metrics.begin(), metrics.end());
  Table t(header);
  for (const SliceResult& s : e.slices) {
    std::vector<std::string> row = {s.name, std::to_string(s.length)};
    for (const std::string& name : settings) {
      const auto it = std::ranges::find(s.setting, name, &std::pair<std::string, Index>::first);
      row.push_back(it == s.setting.end() ? "-" : std::to_string(it->second));
    }
    row.push_back(std::to_string(s.labels));
    for (const std::string& name : metrics) {
      const double* value = s.metrics.find(name);
      row.push_back(value == nullptr ? "-" : fmt::format("{:.4f}", *value));
    }
    t.add(std::move(row));
  }
  return t.str(terminal_columns());
}

int Eval::run(parallel::RankEnv& env) {
  if (!device_.empty()) {
    overrides_.push_back("device=" + device_);
  }
  const LoadedModel loaded = load_model(checkpoint_, overrides_);
  const std::unique_ptr<data::Task> task = load_task(loaded);
  const bool none = task->slices(split_).empty();
  const data::Split split = none ? data::Split::kValid : split_;
  Evaluation e = *evaluate(*loaded.model, *task, split, loaded.config, loaded.seed, env.world());
  e.step = loaded.step;
  if (env.world().rank() != 0) {
    return 0;
  }
  if (!figure_.empty()) {
    RunResult r{.model = loaded.model->label(), .history = {e}};
    r.train_length = longest_training_example(*task);
    positions_figure(r,
                     figure_.ends_with(".svg") ? figure_.substr(0, figure_.size() - 4) : figure_);
  }
  if (json_) {
    fmt::print("{}\n", nlohmann::ordered_json(e).dump());
    return 0;
  }
  fmt::print("{} after {} updates\n{}", loaded.model->label(), loaded.step, evaluation_table(e));
  return 0;
}

LS_COMMAND(Eval, "eval", "evaluate a checkpoint");

}  // namespace
}  // namespace ls::experiments
