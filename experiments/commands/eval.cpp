#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "experiments/commands/command.h"
#include "experiments/evaluate.h"
#include "experiments/load.h"
#include "experiments/table.h"

namespace ls::experiments {
namespace {

class Eval final : public Command {
 public:
  static constexpr int kPlace = 20;
  void options(Options& o) override {
    o("checkpoint", checkpoint_, {.help = "checkpoint file", .required = true});
    o("--split", split_, {.help = "examples to use", .choices = {"valid", "test"}});
    o("--set", overrides_,
      {.help = "a.b=c: override a field of the stored config, e.g. task.eval_lengths=[240]"});
    o("--json", json_, {.help = "print one line of JSON"});
  }
  int run(parallel::RankEnv& env) override;

 private:
  std::string checkpoint_;
  data::Split split_ = data::Split::kTest;
  std::vector<std::string> overrides_;
  bool json_ = false;
};

int Eval::run(parallel::RankEnv& env) {
  const LoadedModel loaded = load_model(checkpoint_, overrides_);
  const bool other_data = std::ranges::any_of(
      overrides_, [](const std::string& text) { return text.starts_with("task"); });
  const std::unique_ptr<data::Task> task = load_task(loaded, other_data);
  const bool none = task->slices(split_).empty();
  const data::Split split = none ? data::Split::kValid : split_;
  const Evaluation e =
      *evaluate(*loaded.model, *task, split, loaded.config, loaded.seed, env.world());
  if (env.world().rank() != 0) {
    return 0;
  }
  if (json_) {
    fmt::print("{}\n", nlohmann::ordered_json(e).dump());
    return 0;
  }
  std::vector<std::string> header = {fmt::format("{} slice", enum_name(e.split))};
  for (const auto& [name, value] : e.slices.begin()->second) {
    header.push_back(name);
  }
  Table t(header);
  for (const auto& [slice, metrics] : e.slices) {
    std::vector<std::string> row = {slice};
    for (const auto& [name, value] : metrics) {
      row.push_back(fmt::format("{:.4f}", value));
    }
    row.resize(header.size(), "-");
    t.add(std::move(row));
  }
  fmt::print("{} after {} updates\n{}", loaded.model->label(), loaded.step, t.str());
  return 0;
}

LS_COMMAND(Eval, "eval", "evaluate a checkpoint");

}  // namespace
}  // namespace ls::experiments
