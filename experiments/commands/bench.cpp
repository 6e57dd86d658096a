#include <fmt/core.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "experiments/commands/command.h"
#include "experiments/run.h"

namespace ls::experiments {
namespace {

struct Options {
  std::string config;
  std::vector<std::string> overrides;
  Index steps = 20, warmup = 3;
};

/// Seconds since this process was started, to a clock tick.
double seconds_since_launch() {
  long long ticks = 0;
  if (std::FILE* f = std::fopen("/proc/self/stat", "r")) {
    if (std::fscanf(f,
                    "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d "
                    "%*d %*d %*d %lld",
                    &ticks) != 1) {
      ticks = 0;
    }
    std::fclose(f);
  }
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9 -
         static_cast<double>(ticks) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

int bench(const Options& o, parallel::RankEnv& env) {
  RunConfig config = read_config_file<RunConfig>(o.config, o.overrides);
  config.steps = o.warmup + o.steps + 1;
  for (std::size_t m = 0; m < config.models.size(); ++m) {
    Trainer trainer(config, m, static_cast<std::uint64_t>(config.seeds.front()), "", env.world());
    trainer.step();
    const double first = seconds_since_launch();
    for (Index i = 0; i < o.warmup; ++i) {
      trainer.step();
    }
    const Index before = trainer.tokens_done();
    const auto begin = std::chrono::steady_clock::now();
    double loss = 0;
    for (Index i = 0; i < o.steps; ++i) {
      loss = trainer.step();
    }
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    if (env.world().rank() == 0) {
      nlohmann::ordered_json j{
          {"model", trainer.model().label()},
          {"params", trainer.model().parameters().count()},
          {"tokens_per_s", static_cast<double>(trainer.tokens_done() - before) / took.count()},
          {"steps", o.steps},
          {"seconds", took.count()},
          {"first_step_s", first},
          {"peak_rss_bytes", peak_resident_bytes()},
          {"loss", loss}};
      fmt::print("{}\n", j.dump());
      std::fflush(stdout);
    }
  }
  return 0;
}

Action setup(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("--config,config", o->config, "YAML file")->required();
  app.add_option("--set", o->overrides, "a.b=c: override one field")
      ->take_all()
      ->allow_extra_args(false);
  app.add_option("--steps", o->steps, "updates timed")->check(CLI::Range(Index{1}, Index{1} << 30));
  app.add_option("--warmup", o->warmup, "updates before, besides the first")
      ->check(CLI::Range(Index{0}, Index{1} << 30));
  return [o](parallel::RankEnv& env) { return bench(*o, env); };
}
LS_COMMAND(bench,
           {"bench", "time training steps of a config; one line of JSON a model", 80, setup});

}  // namespace
}  // namespace ls::experiments
