#include <fmt/core.h>

#include "experiments/commands/command.h"
#include "experiments/run.h"

namespace ls::experiments {
namespace {

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  bool resume = false, fresh = false;
};

int train(const Options& o, parallel::RankEnv& env) {
  const ConfigTree tree = ConfigTree::from_file(o.config, o.overrides);
  RunConfig config;
  read_config(tree, config);
  install_stop_signals();
  const RunOutcome out = run_all(
      config, [&](const std::string& path) { return tree.where(path); },
      o.resume  ? Existing::kResume
      : o.fresh ? Existing::kFresh
                : Existing::kRefuse,
      env.world());
  if (out.interrupted) {
    return 128 + stop_signal(env.world());
  }
  if (env.world().rank() == 0) {
    fmt::print("\n{}\n", out.table);
    fmt::print("state bytes: per sequence, after {} tokens\n", out.results.front().state_tokens);
    for (std::size_t m = 0; m < config.models.size(); ++m) {
      for (const Index seed : config.seeds) {
        const std::string part = part_directory(config, m, seed);
        const auto saved = list_checkpoints(part + "/checkpoints");
        fmt::print("checkpoint  {}\nmetrics     {}/metrics.jsonl\n",
                   saved.empty() ? "none" : saved.back(), part);
      }
    }
    fmt::print("table       {}/table.txt\n", out.directory);
    if (!out.figure.empty()) {
      fmt::print("figure      {}\n", out.figure);
    }
  }
  return 0;
}

Action setup(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("config", o->config, "YAML file")->required();
  app.add_option("--set", o->overrides, "a.b=c: override one field")
      ->take_all()
      ->allow_extra_args(false);
  auto* const resume = app.add_flag("--resume", o->resume, "go on from the newest checkpoints");
  app.add_flag("--fresh", o->fresh,
               "delete what these models and seeds left in the run's folder and start over")
      ->excludes(resume);
  return [o](parallel::RankEnv& env) { return train(*o, env); };
}
LS_COMMAND(train, {"train", "train the models of a config", 10, setup});

}  // namespace
}  // namespace ls::experiments
