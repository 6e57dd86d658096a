#include "experiments/sweep/estimate.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/base/parallel_for.h"
#include "experiments/progress.h"
#include "experiments/trainer.h"

namespace ls::experiments {
namespace {

constexpr std::size_t kMostTried = 24;  // cells
constexpr double kTrialSeconds = 0.3;
// Of files, in bytes: what a run is described by, a line of metrics.jsonl, an evaluated slice.
constexpr double kRecord = 12000, kLine = 300, kSlice = 900;

/// Of one run.
struct Cost {
  double tokens = 0, seconds = 0, disk = 0, checkpoint = 0;
};

/// Tokens of one pass over a split.
double tokens_of(const data::Task& task, data::Split split) {
  double tokens = 0;
  for (const data::Slice& s : task.slices(split)) {
    tokens +=
        static_cast<double>(s.examples) * static_cast<double>(std::max(s.length, s.max_length));
  }
  return tokens;
}

Cost cost_of(const SweepRun& run) {
  using Clock = std::chrono::steady_clock;
  const RunConfig& config = run.config;
  const auto solo = solo_communicator();
  const auto seed = static_cast<std::uint64_t>(run.seed());
  Trainer trainer(config, 0, seed, "", *solo, device_of(config), {.quiet = true});
  trainer.step();  // kernels are chosen, memory is asked for
  const Index most = std::max<Index>(1, std::min<Index>(config.steps - 1, 200));
  const auto begin = Clock::now();
  Index steps = 0;
  double seconds = 0;
  while (config.steps > 1 && steps < most && seconds < kTrialSeconds) {
    trainer.step();
    ++steps;
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  const auto updates = static_cast<double>(config.steps);
  const double tokens = static_cast<double>(trainer.tokens_done()) / static_cast<double>(steps + 1);
  const double each = steps > 0 ? seconds / static_cast<double>(steps) : 0;
  const std::unique_ptr<data::Task> task =
      data::make_task(config.task, {.seed = seed, .stream = config.state.streams()});
  const double evaluations =
      1 + (config.eval.every > 0 ? static_cast<double>((config.steps - 1) / config.eval.every) : 0);
  // A forward pass is a third of an update.
  const double read = evaluations * tokens_of(*task, data::Split::kValid) +
                      (run.choice ? 0 : tokens_of(*task, data::Split::kTest));
  const double slices =
      (evaluations + 1) * static_cast<double>(std::max(task->slices(data::Split::kValid).size(),
                                                       task->slices(data::Split::kTest).size()));
  const auto parameters = static_cast<double>(trainer.model().parameters().count());
  const double states = static_cast<double>(config.optimizer.make()->state_names().size());
  return {.tokens = tokens * updates,
          .seconds = each * (updates + (tokens > 0 ? read / tokens / 3 : 0)),
          .disk = kRecord + kLine * updates / static_cast<double>(config.log_every) +
                  2 * kSlice * slices,
          .checkpoint = 4 * parameters * (1 + states)};
}

}  // namespace

SweepEstimate estimate(const SweepPlan& plan, int workers) {
  SweepEstimate e{.runs = plan.size(), .cells = std::ssize(plan.cells)};
  const int threads = num_threads();
  e.workers = static_cast<int>(std::min<Index>(workers > 0 ? workers : threads, e.runs));
  set_num_threads(std::max(1, threads / e.workers));
  const std::size_t tried = std::min(kMostTried, plan.cells.size());
  e.sampled = tried < plan.cells.size();
  double checkpoint = 0;
  for (std::size_t i = 0; i < tried; ++i) {
    const SweepCell& cell = plan.cells[i * plan.cells.size() / tried];
    const double cells = static_cast<double>(plan.cells.size()) / static_cast<double>(tried);
    const auto choice =
        static_cast<double>(plan.chooses() ? cell.choice.size() * cell.choice.front().size() : 0);
    const Cost report = cost_of(cell.report.front().front());
    const double runs = cells * (choice + static_cast<double>(cell.report.front().size()));
    e.choice_runs += static_cast<Index>(cells * choice + 0.5);
    e.tokens += runs * report.tokens;
    e.seconds += runs * report.seconds;
    e.disk += runs * (report.disk + (plan.config.keep == Keep::kNone ? 0 : report.checkpoint));
    checkpoint = std::max(checkpoint, report.checkpoint);
  }
  set_num_threads(threads);
  e.seconds /= e.workers;
  const Index kept = plan.cells.front().configs.front().checkpoint.keep;
  e.working = e.disk + e.workers * checkpoint * static_cast<double>(kept + 1);
  // Of each run its config, metrics and result, and what lies beside the runs.
  e.files = e.runs * (plan.config.keep == Keep::kNone ? 3 : 4) + 3;
  return e;
}

std::string estimate_text(const SweepEstimate& e) {
  std::string text = fmt::format("runs    {} in {} cells", e.runs, e.cells);
  text += e.choice_runs > 0 ? fmt::format(", {} of them to choose rates\n", e.choice_runs) : "\n";
  text += fmt::format("tokens  {}\n", human_count(e.tokens));
  text += fmt::format("time    {} with {} workers, from a trial of {}\n", human_seconds(e.seconds),
                      e.workers, e.sampled ? "some cells" : "each cell");
  text += fmt::format("disk    {}, {} while runs are under way\n", human_bytes(e.disk),
                      human_bytes(e.working));
  return text + fmt::format("files   {}\n", e.files);
}

}  // namespace ls::experiments
