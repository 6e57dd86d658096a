#include <fmt/core.h>

#include "experiments/commands/command.h"
#include "experiments/run.h"
#include "experiments/stop.h"

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
    // Seeds as a shell's braces, one pair of lines a model.
    std::string seeds;
    for (const Index seed : config.seeds) {
      seeds += (seeds.empty() ? "" : ",") + std::to_string(seed);
    }
    if (config.seeds.size() > 1) {
      seeds = "{" + seeds + "}";
    }
    for (const std::string& label : model_labels(config)) {
      const std::string part = out.directory + "/" + label + "/seed" + seeds;
      fmt::print("checkpoint  {}\nmetrics     {}/metrics.jsonl\n",
                 checkpoint_path(part + "/checkpoints", config.steps), part);
    }
    fmt::print("table       {}/table.txt\n", out.directory);
    if (!out.figure.empty()) {
      fmt::print("figure      {}\n", out.figure);
    }
  }
  return 0;
}

constexpr const char* kSignals =
    "Signals:\n"
    "  SIGINT (Ctrl-C), SIGTERM, SIGUSR1 and SIGUSR2 save and leave with status 130, 143, 138\n"
    "  and 140, on one rank or several, whichever rank gets the signal; a second one ends at\n"
    "  once. Open MPI's mpirun kills the ranks a second after it passes SIGINT or SIGTERM on,\n"
    "  and returns 1 whatever they do: start with scripts/mpirun.sh, which signals the ranks\n"
    "  alone, or send mpirun a SIGUSR2 (it may drop SIGUSR1).";

Action setup(CLI::App& app) {
  app.footer(kSignals);
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
