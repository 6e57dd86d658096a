#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "experiments/commands/command.h"
#include "experiments/evaluate.h"
#include "experiments/lengths_report.h"
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
    o("--lengths", lengths_,
      {.help = "test these lengths, multiples of the training length or tokens (1x..64x, 1x,2x,8x, "
               "512..65536), and look at states past the training length"});
    o("--output", output_, {.help = "with --lengths: folder for its JSON, CSV files and figures"});
    o("--level", level_,
      {.help = "with --lengths: accuracy below which a position counts as failed",
       .min = 0.01,
       .max = 0.99});
    o("--remember", remember_,
      {.help = "with --lengths: the length, of those, at which effective remembrance is measured; "
               "4x by default"});
  }
  int run(parallel::RankEnv& env) override;

 private:
  std::string checkpoint_;
  data::Split split_ = data::Split::kTest;
  std::vector<std::string> overrides_;
  bool json_ = false;
  std::string figure_, device_, lengths_, output_, remember_;
  double level_ = 0.9;

  int run_lengths(const LoadedModel& loaded, const data::Task& trained, parallel::RankEnv& env);
};

std::string without_svg(const std::string& path) {
  return path.ends_with(".svg") ? path.substr(0, path.size() - 4) : path;
}

/// One row a slice: length, setting, labels, the union of all metrics, `more` where there is any,
/// and why it was not run or what was left out; in the terminal's width.
std::string evaluation_table(
    const Evaluation& e,
    const std::vector<std::pair<std::string, std::vector<std::string>>>& more = {}) {
  std::vector<std::string> settings, metrics;
  const auto add = [](std::vector<std::string>& names, const auto& pairs) {
    for (const auto& [name, value] : pairs) {
      if (std::ranges::find(names, name) == names.end()) {
        names.push_back(name);
      }
    }
  };
  bool notes = false;
  for (const SliceResult& s : e.slices) {
    add(settings, s.setting);
    add(metrics, s.metrics.values);
    notes |= !s.not_run.empty() || s.left_out > 0;
  }
  std::vector<std::string> header = {fmt::format("{} slice", enum_name(e.split)), "length"};
  header.insert(header.end(), settings.begin(), settings.end());
  header.emplace_back("labels");
  header.insert(header.end(), metrics.begin(), metrics.end());
  for (const auto& [name, cells] : more) {
    header.push_back(name);
  }
  if (notes) {
    header.emplace_back("note");
  }
  Table t(header);
  for (std::size_t i = 0; i < e.slices.size(); ++i) {
    const SliceResult& s = e.slices[i];
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
    for (const auto& [name, cells] : more) {
      row.push_back(cells[i]);
    }
    if (notes) {
      row.push_back(!s.not_run.empty() ? "not run: " + s.not_run
                    : s.left_out > 0   ? fmt::format("{} of {} examples (eval.max_tokens)",
                                                     s.examples, s.examples + s.left_out)
                                       : "");
    }
    t.add(std::move(row));
  }
  return t.str(terminal_columns());
}

/// Checks that a config has task.test_lengths.
void check_has_lengths(const RunConfig& config) {
  const ComponentCatalog& tasks = data::Task::registry();
  const auto has = [&](const std::string& task) {
    TestFields found;
    tasks.new_config(task)->visit(found);
    return std::ranges::find(found.names, "test_lengths") != found.names.end();
  };
  std::string with;
  for (const std::string& task : tasks.names()) {
    with += has(task) ? (with.empty() ? "" : ", ") + task : "";
  }
  LS_CHECK(has(config.task.name()), kConfig,
           "--lengths: task '{}' has no test_lengths; those that have: {}; of this one set what is "
           "tested with --set: {}",
           config.task.name(), with, test_fields());
}

int Eval::run_lengths(const LoadedModel& loaded, const data::Task& trained,
                      parallel::RankEnv& env) {
  check_has_lengths(loaded.config);
  const Index train_length = longest_training_example(trained);
  const std::vector<Index> lengths = parse_lengths(lengths_, train_length);
  std::vector<std::string> overrides = overrides_;
  overrides.push_back(fmt::format("task.test_lengths=[{}]", fmt::join(lengths, ", ")));
  LengthOptions options{.level = level_};
  if (!remember_.empty()) {
    options.remember = parse_lengths(remember_, train_length).back();
  }
  LoadedModel at = load_model(checkpoint_, overrides);
  const std::unique_ptr<data::Task> task = load_task(at);
  const data::Split split = task->slices(split_).empty() ? data::Split::kValid : split_;
  LengthStudy study = study_lengths(*at.model, *task, split, at.config, at.seed, env.world(),
                                    train_length, options);
  study.step = at.step;
  std::vector<std::string> paths;
  if (!output_.empty()) {
    paths = write_lengths(study, output_);
  }
  if (!figure_.empty()) {
    lengths_figure(study, without_svg(figure_));
  }
  if (json_) {
    fmt::print("{}\n", nlohmann::ordered_json(study).dump());
    return 0;
  }
  Evaluation e{.step = study.step, .split = split, .slices = {}};
  std::vector<std::string> times, states;
  for (const LengthRow& row : study.rows) {
    e.slices.push_back(row.result);
    times.push_back(fmt::format(
        "{:.3g}x", static_cast<double>(row.result.length) / static_cast<double>(train_length)));
    states.push_back(row.result.not_run.empty() ? std::to_string(row.state.total()) : "-");
  }
  fmt::print("{} after {} updates, trained on up to {} tokens\n{}{}", study.model, study.step,
             train_length, evaluation_table(e, {{"of training", times}, {"state bytes", states}}),
             lengths_text(study, terminal_columns()));
  for (const std::string& path : paths) {
    fmt::print("{}\n", path);
  }
  return 0;
}

int Eval::run(parallel::RankEnv& env) {
  if (!lengths_.empty()) {
    check_one_rank(env.world());
  }
  if (!device_.empty()) {
    overrides_.push_back("device=" + device_);
  }
  const LoadedModel loaded = load_model(checkpoint_, overrides_);
  const std::unique_ptr<data::Task> task = load_task(loaded);
  if (!lengths_.empty()) {
    return run_lengths(loaded, *task, env);
  }
  LS_CHECK(output_.empty() && remember_.empty(), kConfig,
           "--output and --remember belong to --lengths; give lengths, as in --lengths 1x..64x");
  const bool none = task->slices(split_).empty();
  const data::Split split = none ? data::Split::kValid : split_;
  const MeshConfig& asked = loaded.config.mesh;
  const parallel::Mesh mesh(env.world(), extents_of(asked, env.world().size()), asked.strategy);
  Evaluation e = *evaluate(*loaded.model, *task, split, loaded.config, loaded.seed, mesh);
  e.step = loaded.step;
  if (env.world().rank() != 0) {
    return 0;
  }
  if (!figure_.empty()) {
    RunResult r{.model = loaded.model->label(), .history = {e}};
    r.train_length = longest_training_example(*task);
    positions_figure(r, without_svg(figure_));
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
