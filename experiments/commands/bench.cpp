#include <fmt/core.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/profile.h"
#include "core/tensor/devices.h"
#include "experiments/commands/command.h"
#include "experiments/decode_bench.h"
#include "experiments/model_io.h"
#include "experiments/progress.h"
#include "experiments/table.h"
#include "experiments/trainer.h"

namespace ls::experiments {
namespace {

class Bench final : public Command {
 public:
  static constexpr int kPlace = 80;
  void options(Options& o) override {
    o("--config,config", config_, {.help = "YAML file", .required = true});
    o("--set", overrides_, {.help = "a.b=c: override one field"});
    o("--steps", steps_, {.help = "updates timed", .min = 1, .max = 1 << 30});
    o("--warmup", warmup_, {.help = "updates before, besides the first", .min = 0, .max = 1 << 30});
    o("--ops", ops_, {.help = "a table of where the time of a step goes, by op"});
    o("--decode", decode_,
      {.help =
           "time the writing of tokens instead, against the memory that must be passed through"});
    o("--rows", rows_,
      {.help = "with --decode: sequences side by side, one or more numbers",
       .min = 1,
       .max = 1 << 20});
    o("--context", context_,
      {.help = "with --decode: tokens before the first timed one", .min = 1, .max = 1 << 30});
  }
  int run(parallel::RankEnv& env) override;

 private:
  void train(const RunConfig& config, std::size_t model, Communicator& world);
  void decode(const RunConfig& config, std::size_t model, Communicator& world);

  std::string config_;
  std::vector<std::string> overrides_;
  Index steps_ = 20, warmup_ = 3;
  bool ops_ = false, decode_ = false;
  std::vector<Index> rows_ = {1};
  Index context_ = 256;
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

/// Milliseconds of a step by op. GFLOP/s and GB/s come from the declared costs, which are of
/// forward passes; recomputation and bytes that stay in a cache are not in them.
void print_profile(const std::vector<profile::Entry>& entries, double seconds, Index steps) {
  Table table({"op", "direction", "calls a step", "ms a step", "%", "GFLOP/s", "GB/s"});
  double known = 0;
  const auto per_step = [&](double x) { return x / static_cast<double>(steps); };
  for (const profile::Entry& e : entries) {
    known += e.seconds;
    const auto rate = [&](double amount) {
      return amount > 0 ? fmt::format("{:.1f}", amount / e.seconds * 1e-9) : std::string("-");
    };
    table.add({e.name, e.part, fmt::format("{:.0f}", per_step(static_cast<double>(e.calls))),
               fmt::format("{:.3f}", per_step(e.seconds) * 1e3),
               fmt::format("{:.1f}", 100 * e.seconds / seconds), rate(e.flops), rate(e.bytes)});
  }
  table.add({"the rest", "", "", fmt::format("{:.3f}", per_step(seconds - known) * 1e3),
             fmt::format("{:.1f}", 100 * (seconds - known) / seconds), "-", "-"});
  fmt::print("{}", table.str(terminal_columns()));
}

void Bench::train(const RunConfig& config, std::size_t model, Communicator& world) {
  Trainer trainer(config, model, static_cast<std::uint64_t>(config.seeds.front()), "", world,
                  device_of(config));
  trainer.step();
  const double first = seconds_since_launch();
  trainer.steps(warmup_);
  const Index before = trainer.tokens_done();
  const auto begin = std::chrono::steady_clock::now();
  const double loss = trainer.steps(steps_);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  const Index done = trainer.tokens_done() - before;
  std::vector<profile::Entry> entries;
  if (ops_) {
    entries = trainer.profiled_steps(steps_);
  }
  if (world.rank() != 0) {
    return;
  }
  nlohmann::ordered_json j{{"model", trainer.model().label()},
                           {"params", trainer.model().parameters().count()},
                           {"tokens_per_s", static_cast<double>(done) / took.count()},
                           {"steps", steps_},
                           {"seconds", took.count()},
                           {"first_step_s", first},
                           {"peak_rss_bytes", peak_resident_bytes()},
                           {"device_bytes", trainer.train_step().device_bytes()},
                           {"loss", loss}};
  fmt::print("{}\n", j.dump());
  if (ops_) {
    print_profile(entries, took.count(), steps_);
  }
}

void Bench::decode(const RunConfig& config, std::size_t model, Communicator& world) {
  LS_CHECK(world.size() == 1, kConfig, "bench --decode runs on one rank, not {}", world.size());
  const auto seed = static_cast<std::uint64_t>(config.seeds.front());
  const auto task = data::make_task(config.task, {.seed = seed, .stream = false});
  layers::Model net(config.models[model], model_interface(*task), seed);
  net.parameters().to(device_of(config));
  for (const Index rows : rows_) {
    const DecodeTiming t = time_decoding(net, rows, context_, steps_, ops_, config.graphs);
    nlohmann::ordered_json j{{"model", net.label()},
                             {"params", net.parameters().count()},
                             {"rows", rows},
                             {"context", context_},
                             {"tokens_per_s", static_cast<double>(rows) / t.token_seconds},
                             {"ms", t.token_seconds * 1e3},
                             {"floor_ms", t.floor_seconds * 1e3},
                             {"of_floor", t.floor_seconds / t.token_seconds},
                             {"weight_bytes", t.weight_bytes},
                             {"state_bytes", t.state.total()}};
    fmt::print("{}\n", j.dump());
    if (ops_) {
      print_profile(t.entries, t.seconds, steps_);
    }
  }
}

int Bench::run(parallel::RankEnv& env) {
  RunConfig config = read_config_file<RunConfig>(config_, overrides_);
  const Index steps = warmup_ + (ops_ ? 2 : 1) * steps_ + 1;
  config.horizon = std::max(steps, config.horizon.value_or(config.steps));
  config.steps = steps;
  for (std::size_t m = 0; m < config.models.size(); ++m) {
    decode_ ? decode(config, m, env.world()) : train(config, m, env.world());
    std::fflush(stdout);
  }
  return 0;
}

LS_COMMAND(Bench, "bench", "time training steps of a config, or writing; one line of JSON a model");

}  // namespace
}  // namespace ls::experiments
