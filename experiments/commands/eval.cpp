#include <fmt/core.h>

#include "experiments/commands/command.h"
#include "experiments/evaluate.h"
#include "experiments/load.h"
#include "experiments/table.h"

namespace ls::experiments {
namespace {

struct Options {
  std::string checkpoint, split = "test";
  std::vector<std::string> overrides;
  bool json = false;
};

int eval(const Options& o, parallel::RankEnv& env) {
  const LoadedModel loaded = load_model(o.checkpoint, o.overrides);
  data::Split split = o.split == "train"   ? data::Split::kTrain
                      : o.split == "valid" ? data::Split::kValid
                                           : data::Split::kTest;
  if (split == data::Split::kTest && loaded.task->slices(split).empty()) {
    split = data::Split::kValid;
  }
  LS_CHECK(split != data::Split::kTrain, kConfig, "evaluation runs on the valid or the test split");
  const Evaluation e =
      *evaluate(*loaded.model, *loaded.task, split, loaded.config, loaded.seed, env.world());
  if (env.world().rank() != 0) {
    return 0;
  }
  if (o.json) {
    fmt::print("{}\n", evaluation_json(e));
    return 0;
  }
  std::vector<std::string> header = {e.split + " slice"};
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

Action setup(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("checkpoint", o->checkpoint, "checkpoint file")->required();
  app.add_option("--split", o->split, "examples to use")->check(CLI::IsMember({"valid", "test"}));
  app.add_option("--set", o->overrides,
                 "a.b=c: override a field of the stored config, e.g. task.eval_lengths=[240]")
      ->take_all()
      ->allow_extra_args(false);
  app.add_flag("--json", o->json, "print one line of JSON");
  return [o](parallel::RankEnv& env) { return eval(*o, env); };
}
LS_COMMAND(eval, {"eval", "evaluate a checkpoint", 20, setup});

}  // namespace
}  // namespace ls::experiments
