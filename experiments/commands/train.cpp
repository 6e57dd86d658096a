#include <fmt/format.h>

#include "experiments/checkpoint.h"
#include "experiments/commands/command.h"
#include "experiments/run.h"
#include "experiments/stop.h"

namespace ls::experiments {
namespace {

constexpr const char* kSignals =
    "Signals:\n"
    "  SIGINT (Ctrl-C), SIGTERM, SIGUSR1 and SIGUSR2 save and leave with status 130, 143, 138\n"
    "  and 140, on one rank or several, whichever rank gets the signal; a second one ends at\n"
    "  once. Open MPI's mpirun kills the ranks a second after it passes SIGINT or SIGTERM on,\n"
    "  and returns 1 whatever they do: start with scripts/mpirun.sh, which signals the ranks\n"
    "  alone, or send mpirun a SIGUSR2 (it may drop SIGUSR1).";

class Train final : public Command {
 public:
  static constexpr int kPlace = 10;
  void options(Options& o) override {
    o("config", config_, {.help = "YAML file", .required = true});
    o("--set", overrides_, {.help = "a.b=c: override one field"});
    o.mode("--resume", resume_,
           {.help = "go on from the newest checkpoints; from the one before where it is damaged, "
                    "which --resume=strict refuses",
            .choices = {"strict"}});
    o("--allow-changed-data", allow_changed_data_,
      {.help = "go on although files of the corpus have changed"});
    o("--fresh", fresh_,
      {.help = "delete what these models and seeds left in the run's folder and start over",
       .excludes = "--resume"});
    o("--leave-before", leave_before_,
      {.help = "save and leave so long before the job ends (90s, 5min, 1.5h), with status 75: its "
               "end is SLURM_JOB_END_TIME or LONGSCAN_JOB_END, seconds since 1970"});
    o.footer(kSignals);
  }
  int run(parallel::RankEnv& env) override;

 private:
  void leave_before_the_end() const;

  std::string config_;
  std::vector<std::string> overrides_;
  std::string resume_, leave_before_;
  bool fresh_ = false, allow_changed_data_ = false;
};

void Train::leave_before_the_end() const {
  using Clock = std::chrono::system_clock;
  const auto before = std::chrono::duration_cast<Clock::duration>(parse_duration(leave_before_));
  const Clock::time_point when = job_end() - before;
  const std::chrono::duration<double> left = when + before - Clock::now();
  LS_CHECK(when > Clock::now(), kConfig,
           "--leave-before {}: the job ends in {:.0f} s, so that nothing would be trained; give it "
           "more time",
           leave_before_, left.count());
  leave_at(when);
}

int Train::run(parallel::RankEnv& env) {
  RunConfig config;
  const ConfigPlaces places = read_config(ConfigTree::from_file(config_, overrides_), config);
  install_stop_signals();
  if (!leave_before_.empty()) {
    leave_before_the_end();
  }
  RunOptions options;
  if (!resume_.empty()) {
    options.existing = Existing::kResume;
  } else if (fresh_) {
    options.existing = Existing::kFresh;
  }
  options.resume = {.strict = resume_ == "strict", .allow_changed_data = allow_changed_data_};
  const RunOutcome out = run_all(
      config, [&](const std::string& path) { return places.where(path); }, options, env.world());
  const bool partial = out.interrupted || !out.failures.empty();
  if (partial && !out.table.empty()) {
    fmt::print("\n{}\ntable       {}/table.txt\n", out.table, out.directory);
  }
  if (out.interrupted) {
    return stop_status(stop_signal(env.world()));
  }
  LS_CHECK(out.failures.empty(), kNumeric, "{}", fmt::join(out.failures, "\n"));
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
      if (!config.checkpoint.best.empty()) {
        fmt::print("best        {}\n", best_checkpoint_path(part + "/checkpoints"));
      }
      fmt::print("checkpoint  {}\nmetrics     {}/metrics.jsonl\n",
                 checkpoint_path(part + "/checkpoints", config.steps), part);
    }
    fmt::print("table       {}/table.txt\n", out.directory);
    for (const std::string& figure : out.figures) {
      fmt::print("figure      {}\n", figure);
    }
  }
  return 0;
}

LS_COMMAND(Train, "train", "train the models of a config");

}  // namespace
}  // namespace ls::experiments
