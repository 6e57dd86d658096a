#include "experiments/sweep/worker.h"

#include <filesystem>
#include <new>

#include "core/base/log.h"
#include "core/io/files.h"
#include "experiments/checkpoint.h"
#include "experiments/progress.h"
#include "experiments/stop.h"
#include "experiments/trainer.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;

class Worker {
 public:
  Worker(const SweepPlan& plan, const WorkerOptions& options)
      : plan_(plan),
        options_(options),
        folder_(plan.directory()),
        watch_(folder_.leases(), options.lease_seconds),
        solo_(solo_communicator()) {}

  Index run() {
    while (!stopped()) {
      folder_.refresh();
      const OpenRuns open = open_runs(plan_, folder_);
      if (open.runs.empty()) {
        return ended_;
      }
      if (!take_one(open)) {
        std::this_thread::sleep_for(std::chrono::milliseconds(200));  // others are at the rest
      }
    }
    return ended_;
  }

 private:
  bool stopped() { return stop_signal(*solo_) != 0; }

  bool take_one(const OpenRuns& open) {
    const std::map<std::string, LeaseNote> held = watch_.look();
    for (const SweepRun* run : open.runs) {
      const std::string& name = folder_.name_of(*run);
      const auto at = held.find(name);
      const std::unique_ptr<Lease> lease =
          Lease::claim(watch_, name, at == held.end() ? std::nullopt : std::optional(at->second));
      if (!lease) {
        continue;
      }
      folder_.refresh();  // it may have ended since, and its lease with it
      if (folder_.ended(*run) == nullptr) {
        execute(*run, *lease);
      }
      return true;
    }
    return false;
  }

  void execute(const SweepRun& run, Lease& lease) {
    const std::string work = folder_.work_of(lease.name(), lease.generation());
    try {
      const bool goes_on = make_folder(run, lease, work);
      bool complete = false;
      const std::string error = train(run, lease, work, goes_on, complete);
      if (!complete && error.empty()) {
        return;  // stopped by a signal
      }
      lease.renew();
      if (!error.empty()) {
        log_warn("a run of the sweep failed and the others go on",
                 {{"run", lease.name()}, {"error", error}});
        SweepFolder::write_failure_note(work, error, step_, device_of(run.config));
      }
      lease.renew();
      const bool published = folder_.publish(work, lease.name());
      ended_ += published ? 1 : 0;
      folder_.refresh();
      const std::string there = plan_.directory() + "/" + lease.name();
      LS_CHECK(published || folder_.ended(run) != nullptr || !fs::exists(there), kIo,
               "{}: another run has this name by now, of a sweep with other settings in the same "
               "folder; give this one another name or output",
               there);
    } catch (const LeaseLost& e) {
      log_warn(e.message());
    }
  }

  /// True where there is a half-done run to go on with.
  bool make_folder(const SweepRun& run, Lease& lease, const std::string& work) {
    const std::string earlier =
        options_.resume ? folder_.half_done(run, lease.generation()) : std::string();
    std::error_code error;
    if (!earlier.empty()) {
      fs::rename(earlier, work, error);
    }
    const bool goes_on = !earlier.empty() && !error;
    if (!goes_on) {
      fs::remove_all(work, error);  // of a lease with this number, long ago
    }
    folder_.remove_half_done(lease.name(), lease.generation());
    create_directories(work);
    replace_file(work + "/config.yaml", dump_yaml(run.config));
    return goes_on;
  }

  /// Why it failed, or "".
  std::string train(const SweepRun& run, Lease& lease, const std::string& work, bool goes_on,
                    bool& complete) {
    step_ = 0;
    PartOptions part{.quiet = options_.quiet,
                     .test = !run.choice,
                     .validates_last = true,
                     .after_update =
                         [this, &lease, &run](Index step) {
                           step_ = step;
                           lease.tell(step, run.config.steps);
                         },
                     .before_write = [&lease] { lease.renew(); }};
    try {
      reset_peak_memory();
      Trainer trainer(run.config, 0, static_cast<std::uint64_t>(run.seed()), work, *solo_,
                      device_of(run.config), std::move(part));
      if (goes_on) {
        trainer.resume({}, std::nullopt);
      }
      complete = trainer.run().complete;
      if (complete) {
        keep_checkpoints(run, work);
      }
      return "";
    } catch (const LeaseLost&) {
      throw;
    } catch (const Error& e) {
      lease.renew();  // whose folder was taken away meanwhile has not failed
      return e.what();
    } catch (const std::bad_alloc&) {
      return "out of memory; use smaller sizes or fewer workers";
    } catch (const std::exception& e) {
      lease.renew();
      return e.what();
    }
  }

  void keep_checkpoints(const SweepRun& run, const std::string& work) const {
    std::error_code error;
    const fs::path folder = work + "/checkpoints";
    if (plan_.config.keep == Keep::kNone) {
      fs::remove_all(folder, error);
      return;
    }
    const fs::path kept = plan_.config.keep == Keep::kBest
                              ? fs::path(best_checkpoint_path(folder.string()))
                              : fs::path(checkpoint_path(folder.string(), run.config.steps));
    for (const auto& entry : fs::directory_iterator(folder, error)) {
      if (entry.path() != kept) {
        fs::remove(entry.path(), error);
      }
    }
  }

  const SweepPlan& plan_;
  const WorkerOptions options_;
  SweepFolder folder_;
  LeaseWatch watch_;
  std::unique_ptr<Communicator> solo_;
  Index step_ = 0, ended_ = 0;
};

}  // namespace

Index work_on(const SweepPlan& plan, const WorkerOptions& options) {
  return Worker(plan, options).run();
}

}  // namespace ls::experiments
