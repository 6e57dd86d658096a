#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <nlohmann/json.hpp>

#include "core/base/log.h"
#include "core/base/parallel_for.h"
#include "core/io/files.h"
#include "experiments/commands/command.h"
#include "experiments/part.h"
#include "experiments/progress.h"
#include "experiments/report/panels.h"
#include "experiments/stop.h"
#include "experiments/sweep/estimate.h"
#include "experiments/sweep/monitor.h"

namespace ls::experiments {
namespace {

constexpr const char* kWorkerVariable = "LONGSCAN_SWEEP_WORKER";  // who started it
constexpr const char* kNotes =
    "The file has base (a config), axes (paths in it with values), rates and seeds; longscan "
    "config\n"
    "--sweep lists its fields. Any number of these commands may work on one folder at the same\n"
    "time, from several machines, under mpirun or as an array of jobs. A kill loses the running\n"
    "runs; started again, a sweep repeats none that has ended, and of a file with more values or\n"
    "seeds trains what is new.";

std::string fact_of(const Provenance& facts, const std::string& name) {
  const auto at = std::ranges::find(facts, name, &Provenance::value_type::first);
  return at == facts.end() ? std::string() : at->second;
}

/// Those that have ended, of every cell.
template <class F>
void for_each_ended(const SweepPlan& plan, const SweepFolder& folder, F&& f) {
  const auto look = [&](const std::vector<SweepRun>& runs) {
    for (const SweepRun& run : runs) {
      if (const EndedRun* ended = folder.ended(run)) {
        f(run, *ended);
      }
    }
  };
  for (const SweepCell& cell : plan.cells) {
    std::ranges::for_each(cell.choice, look);
    std::ranges::for_each(cell.report, look);
  }
}

class Sweep final : public Command {
 public:
  static constexpr int kPlace = 15;
  void options(Options& o) override {
    o("sweep", file_, {.help = "YAML file", .required = true});
    o("--set", overrides_,
      {.help = "a.b=c: override a field of the sweep, base.a.b=c of its base"});
    o("--workers", workers_,
      {.help = "runs at the same time, which share the threads; 0: one a thread",
       .min = 0,
       .max = 4096});
    o("--dry-run", dry_run_,
      {.help = "print runs, tokens, time from a short trial, disk and number of files"});
    o("--resume", resume_, {.help = "half-done runs go on from their checkpoints"});
    o("--redo", redo_,
      {.help = "do again what another build made (changed), what failed, or all",
       .choices = {"changed", "failed", "all"}});
    o("--mixed-devices", mixed_devices_,
      {.help = "go on although earlier runs of the sweep were on another kind of device"});
    o("--mixed-builds", mixed_builds_,
      {.help = "the same where they were made by another compiler or with other flags"});
    o("--allow-changed-data", changed_data_,
      {.help = "go on although files that runs were trained on have changed since"});
    o("--lease", lease_seconds_,
      {.help = "seconds after which a worker that stands still is replaced",
       .min = 0.5,
       .max = 1e6});
    o.footer(kNotes);
  }
  int run(parallel::RankEnv& env) override;

 private:
  std::vector<std::string> worker_command(int workers) const;
  void redo(const SweepPlan& plan, SweepFolder& folder) const;

  std::string file_, redo_;
  std::vector<std::string> overrides_;
  Index workers_ = 0;
  bool dry_run_ = false, resume_ = false, mixed_devices_ = false, mixed_builds_ = false,
       changed_data_ = false;
  double lease_seconds_ = 60;
};

std::vector<std::string> Sweep::worker_command(int workers) const {
  std::vector<std::string> words = {"longscan",
                                    "sweep",
                                    file_,
                                    "--lease",
                                    fmt::format("{}", lease_seconds_),
                                    "--threads",
                                    std::to_string(std::max(1, num_threads() / workers))};
  for (const std::string& text : overrides_) {
    words.insert(words.end(), {"--set", text});
  }
  if (resume_) {
    words.emplace_back("--resume");
  }
  return words;
}

void Sweep::redo(const SweepPlan& plan, SweepFolder& folder) const {
  const auto build = [](const Provenance& p) {
    return std::vector{fact_of(p, "commit"), fact_of(p, "compiler"), fact_of(p, "flags")};
  };
  const std::vector<std::string> now = build(provenance(1));
  const auto look = [&](const std::vector<SweepRun>& runs) {
    for (const SweepRun& run : runs) {
      const EndedRun* ended = folder.ended(run);
      if (ended != nullptr && (redo_ == "all" || (redo_ == "failed" && !ended->result) ||
                               (redo_ == "changed" && build(ended->provenance) != now))) {
        folder.remove(run);
      }
    }
  };
  for (const SweepCell& cell : plan.cells) {
    std::ranges::for_each(cell.choice, look);
    std::ranges::for_each(cell.report, look);
  }
}

/// @throws Error(Config) where a run that has ended was on another kind of device than now
void check_devices(const SweepPlan& plan, const SweepFolder& folder) {
  for_each_ended(plan, folder, [&](const SweepRun& run, const EndedRun& ended) {
    const std::string before = fact_of(ended.provenance, "device");
    const auto kind = [](const std::string& text) {
      return text.substr(0, text.find_first_of(": "));
    };
    const std::string now = device_of(run.config).describe();
    LS_CHECK(before.empty() || kind(before) == kind(now), kConfig,
             "{}: {} was run on {}, this would go on on {}; results of a sweep are compared, so "
             "keep to one kind, or go on with --mixed-devices",
             folder.path(), ended.name, before, now);
  });
}

/// @throws Error(Config) where one was made by another compiler, or with other flags: commits are
///   marked in the table instead
void check_builds(const SweepPlan& plan, const SweepFolder& folder) {
  const Provenance mine = provenance(1);
  for_each_ended(plan, folder, [&](const SweepRun&, const EndedRun& ended) {
    for (const char* name : {"compiler", "flags"}) {
      const std::string before = fact_of(ended.provenance, name), now = fact_of(mine, name);
      LS_CHECK(before.empty() || before == now, kConfig,
               "{}: {} was made by a build with {} '{}', this one has '{}'; results of a sweep are "
               "compared, so keep to one build, repeat those of others with --redo changed, or go "
               "on with --mixed-builds",
               folder.path(), ended.name, name, before, now);
    }
  });
}

/// @throws Error(Config) where one was trained on other data than lie there now
void check_data(const SweepPlan& plan, const SweepFolder& folder) {
  std::map<std::string, std::vector<data::DataIdentity>> known;  // by task and first weights
  for_each_ended(plan, folder, [&](const SweepRun& run, const EndedRun& ended) {
    if (!ended.result || ended.result->data.empty()) {
      return;
    }
    const RunModel& model = run.config.models.front();
    const auto config = nlohmann::ordered_json::parse(dump_json(run.config));
    const std::string key = config.at("task").dump() + model.init.from;
    if (!known.contains(key)) {
      const auto task = data::make_task(
          run.config.task,
          {.seed = static_cast<std::uint64_t>(run.seed()), .stream = run.config.state.streams()});
      known[key] = part_data(*task, model);
    }
    check_same_data(folder.path() + "/" + ended.name, ended.result->data, known[key]);
  });
}

/// @throws Error(Config) where a run that is reported has read no test data: it was made to choose
/// a rate, before seeds or rates changed
void check_tests(const SweepPlan& plan, const SweepFolder& folder) {
  const auto tested = [](const RunResult& result) {
    return std::ranges::any_of(result.history,
                               [](const auto& e) { return e.split == data::Split::kTest; });
  };
  for (const SweepCell& cell : plan.cells) {
    for (const std::vector<SweepRun>& runs : cell.report) {
      for (const SweepRun& run : runs) {
        const EndedRun* ended = folder.ended(run);
        if (ended == nullptr || !ended->result || tested(*ended->result)) {
          continue;
        }
        const auto task = data::make_task(
            run.config.task,
            {.seed = static_cast<std::uint64_t>(run.seed()), .stream = run.config.state.streams()});
        LS_CHECK(task->slices(data::Split::kTest).empty(), kConfig,
                 "{}: {} was trained to choose a rate and has read no test data, this file reports "
                 "its seed {}; keep that among choice_seeds, or repeat the sweep with --redo all",
                 folder.path(), ended->name, run.seed());
      }
    }
  }
}

/// Draws DIRECTORY/figure.svg from its results; its path, or "" with a warning where it cannot be
/// drawn, and where there is nothing to draw.
std::string sweep_figure(const std::string& directory) {
  constexpr std::size_t kMostPanels = 12;
  std::vector<Panel> panels = sweep_panels(load_sweep(directory));
  FigureOptions options;
  if (panels.size() > kMostPanels) {
    options.note = fmt::format("{} of {} panels are left out; longscan report has all",
                               panels.size() - kMostPanels, panels.size());
    panels.resize(kMostPanels);
  }
  const std::string path = directory + "/figure";
  const std::string why = panels.empty() ? "" : draw_figure(path, panels, options);
  if (!why.empty()) {
    log_warn("no figure: " + why);
  }
  return panels.empty() || !why.empty() ? "" : path + ".svg";
}

/// Whether every cell has its rate and no reported run failed.
bool all_well(const SweepPlan& plan, const SweepFolder& folder) {
  return std::ranges::all_of(plan.cells, [&](const SweepCell& cell) {
    const RateChoice choice = choose_rate(plan, cell, folder);
    return choice.rate >= 0 &&
           std::ranges::all_of(cell.report[static_cast<std::size_t>(choice.rate)],
                               [&](const SweepRun& run) {
                                 const EndedRun* ended = folder.ended(run);
                                 return ended != nullptr && ended->result;
                               });
  });
}

int Sweep::run(parallel::RankEnv& env) {
  const VariedConfig varied = VariedConfig::from_file(file_, overrides_, sweep_keys());
  const SweepPlan plan = plan_sweep(varied, read_file(file_));
  const WorkerOptions worker{.lease_seconds = lease_seconds_, .resume = resume_};
  if (const char* parent = std::getenv(kWorkerVariable)) {
    end_with_parent(std::strtoll(parent, nullptr, 10));
    install_stop_signals();
    work_on(plan, worker);
    return 0;
  }
  const bool ranks = parallel::launched_by().has_value();
  const bool speaks = env.world().rank() == 0;
  if (speaks) {
    rehearse(plan);
  }
  if (dry_run_) {
    if (speaks) {
      fmt::print("{}", estimate_text(estimate(plan, static_cast<int>(workers_))));
    }
    return 0;
  }
  install_stop_signals();
  SweepFolder folder(plan.directory());
  if (speaks) {
    folder.replace("sweep.yaml", plan.text);
    redo(plan, folder);
    if (!mixed_devices_) {
      check_devices(plan, folder);
    }
    if (!mixed_builds_) {
      check_builds(plan, folder);
    }
    if (!changed_data_) {
      check_data(plan, folder);
    }
    check_tests(plan, folder);
  }
  env.world().barrier();
  const int workers = static_cast<int>(workers_ > 0 ? workers_ : Index{num_threads()});
  if (ranks) {
    work_on(plan, worker);
    env.world().barrier();
  } else {
    ::setenv(kWorkerVariable, std::to_string(::getpid()).c_str(), 1);
    watch_workers(
        plan,
        {.command = worker_command(workers), .workers = workers, .lease_seconds = lease_seconds_});
  }
  const int stopped = stop_signal(env.world());
  if (!speaks) {
    return stopped != 0 ? 128 + stopped : 0;
  }
  folder.refresh();
  fmt::print("\n{}\ntable       {}/table.txt\nresults     {}/results.csv\n",
             write_results(plan, folder), folder.path(), folder.path());
  const std::string figure = sweep_figure(folder.path());
  fmt::print("{}", figure.empty() ? "" : fmt::format("figure      {}\n", figure));
  if (stopped != 0) {
    return 128 + stopped;
  }
  const OpenRuns open = open_runs(plan, folder);
  if (open.runs.empty() && LeaseWatch(folder.leases(), lease_seconds_).tidy()) {
    folder.remove_left_over();
  }
  LS_CHECK(open.runs.empty(), kIo,
           "{} of {} runs are missing: the workers ended before them; start the sweep again",
           std::ssize(open.runs) + open.later, plan.size());
  return all_well(plan, folder) ? 0 : 1;
}

LS_COMMAND(Sweep, "sweep", "train many configs, restartably, side by side");

}  // namespace
}  // namespace ls::experiments
