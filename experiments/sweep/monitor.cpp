#include "experiments/sweep/monitor.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>

#include "core/base/log.h"
#include "core/io/files.h"
#include "experiments/progress.h"
#include "experiments/stop.h"
#include "experiments/sweep/results.h"

namespace ls::experiments {
namespace {

constexpr int kWidth = 80;                                              // of the live table at most
constexpr double kDrawEvery = 0.2, kPlainEvery = 10, kWriteEvery = 10;  // seconds
constexpr int kDeaths = 2;  // of processes that had the same run, before it counts as failed

/// A process of its own that the terminal's signals do not reach.
pid_t start(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& word : command) {
    argv.push_back(const_cast<char*>(word.c_str()));
  }
  argv.push_back(nullptr);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::setpgid(0, 0);
    const int null = ::open("/dev/null", O_WRONLY);
    ::dup2(null, STDOUT_FILENO);
    sigset_t none;  // this program's threads hold signals back
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, nullptr);
    ::execv("/proc/self/exe", argv.data());
    ::_exit(127);
  }
  LS_CHECK(pid > 0, kIo, "no process for a worker can be made; use fewer --workers");
  return pid;
}

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Share of a plan's updates that are done.
double share_done(const SweepPlan& plan, const OpenRuns& open,
                  const std::vector<LeaseNote>& running) {
  const auto size = static_cast<double>(std::max<Index>(1, plan.size()));
  double missing = static_cast<double>(std::ssize(open.runs) + open.later);
  for (const LeaseNote& note : running) {
    missing -= std::min(1.0, static_cast<double>(note.step) / static_cast<double>(note.steps));
  }
  return std::max(0.0, 1 - missing / size);
}

class Monitor {
 public:
  Monitor(const SweepPlan& plan, const MonitorOptions& options)
      : plan_(plan),
        options_(options),
        folder_(plan.directory()),
        watch_(folder_.leases(), options.lease_seconds),
        solo_(solo_communicator()),
        terminal_(terminal_columns() > 0) {}

  void run() {
    const OpenRuns open = open_runs(plan_, folder_);
    begin_done_ = share_done(plan_, open, {});
    const Index wanted = std::min<Index>(options_.workers, std::ssize(open.runs) + open.later);
    for (Index i = 0; i < wanted; ++i) {
      workers_.push_back(start(options_.command));
    }
    auto written = Clock::now();
    while (!workers_.empty()) {
      reap();
      folder_.refresh();
      show(false);
      if (seconds_since(written) > kWriteEvery) {
        write_results(plan_, folder_);
        written = Clock::now();
      }
      if (!told_ && stop_signal(*solo_) != 0) {
        told_ = true;
        for (const pid_t pid : workers_) {
          ::kill(pid, SIGTERM);
        }
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    folder_.refresh();
    show(true);
  }

 private:
  using Clock = std::chrono::steady_clock;

  void reap() {
    for (std::size_t i = 0; i < workers_.size();) {
      int status = 0;
      if (::waitpid(workers_[i], &status, WNOHANG) == 0) {
        ++i;
        continue;
      }
      const pid_t pid = workers_[i];
      workers_.erase(workers_.begin() + static_cast<std::ptrdiff_t>(i));
      if (WIFSIGNALED(status) && !told_) {
        note_death(pid, WTERMSIG(status));
        workers_.push_back(start(options_.command));
      }
    }
  }

  void note_death(pid_t pid, int signal) {
    for (const auto& [name, note] : watch_.look()) {
      if (note.pid != pid || !note.dead) {
        continue;
      }
      log_warn("the process of a run was killed; another one takes the run over",
               {{"run", name}, {"signal", std::to_string(signal)}});
      if (++deaths_[name] >= kDeaths) {
        give_up(name, note, signal);
      }
    }
  }

  /// A run that brought down its process again and again.
  void give_up(const std::string& name, const LeaseNote& note, int signal) {
    for (const SweepRun* run : open_runs(plan_, folder_).runs) {
      if (folder_.name_of(*run) != name) {
        continue;
      }
      const std::unique_ptr<Lease> lease = Lease::claim(watch_, name, note);
      if (lease) {
        const std::string work = folder_.work_of(name, lease->generation());
        create_directories(work);
        replace_file(work + "/config.yaml", dump_yaml(run->config));
        SweepFolder::write_failure_note(
            work,
            fmt::format("its process was killed by signal {} {} times{}", signal, kDeaths,
                        signal == SIGKILL ? ", perhaps for its memory: use fewer workers or "
                                            "smaller sizes"
                                          : ""),
            note.step, device_of(run->config));
        folder_.publish(work, name);
      }
      return;
    }
  }

  void show(bool last) {
    const double pause = terminal_ ? kDrawEvery : kPlainEvery;
    if (!last && seconds_since(shown_) < pause) {
      return;
    }
    shown_ = Clock::now();
    std::vector<LeaseNote> running;
    for (const auto& [name, note] : watch_.look()) {
      if (!watch_.expired(note)) {
        running.push_back(note);
      }
    }
    const double done = share_done(plan_, open_runs(plan_, folder_), running);
    const double speed = (done - begin_done_) / seconds_since(begin_);
    const int columns = terminal_ ? std::min(kWidth, terminal_columns()) : kWidth;
    const std::vector<std::string> lines =
        live_table(plan_, folder_, running, speed > 0 ? (1 - done) / speed : NAN, columns);
    if (!terminal_) {
      fmt::print("{}\n", lines.front());
      std::fflush(stdout);
      return;
    }
    std::string text = drawn_ > 0 ? fmt::format("\r\033[{}A\033[J", drawn_) : "";
    for (const std::string& line : lines) {
      text += line + "\n";
    }
    drawn_ = lines.size();
    fmt::print("{}", text);
    std::fflush(stdout);
  }

  const SweepPlan& plan_;
  const MonitorOptions& options_;
  SweepFolder folder_;
  LeaseWatch watch_;
  std::unique_ptr<Communicator> solo_;
  bool terminal_, told_ = false;
  std::vector<pid_t> workers_;
  std::map<std::string, int> deaths_;  // of processes, by run
  Clock::time_point begin_ = Clock::now(), shown_ = {};
  double begin_done_ = 0;
  std::size_t drawn_ = 0;  // lines
};

}  // namespace

std::vector<std::string> live_table(const SweepPlan& plan, const SweepFolder& folder,
                                    const std::vector<LeaseNote>& running, double eta_seconds,
                                    int columns) {
  constexpr std::size_t kMostLines = 16;
  const OpenRuns open = open_runs(plan, folder);
  const Index missing = std::ssize(open.runs) + open.later;
  Index failed = 0;
  for (const SweepCell& cell : plan.cells) {
    for (const auto* rates : {&cell.choice, &cell.report}) {
      for (const auto& runs : *rates) {
        failed += std::ranges::count_if(runs, [&](const SweepRun& run) {
          const EndedRun* ended = folder.ended(run);
          return ended != nullptr && !ended->result;
        });
      }
    }
  }
  const Index total = plan.size();
  std::vector<std::string> lines = {progress_line(
      plan.config.name,
      {fmt::format("{}/{} runs", total - missing, total), fmt::format("{} failed", failed),
       fmt::format("{} running", running.size()),
       missing == 0                 ? std::string("done")
       : std::isfinite(eta_seconds) ? "ETA " + human_seconds(eta_seconds)
                                    : std::string("ETA ?")},
      static_cast<double>(total - missing) / static_cast<double>(std::max<Index>(1, total)),
      columns)};
  for (std::size_t i = 0; i < running.size() && i < kMostLines; ++i) {
    const LeaseNote& note = running[i];
    lines.push_back(progress_line("  " + note.name, {fmt::format("{}/{}", note.step, note.steps)},
                                  static_cast<double>(note.step) / static_cast<double>(note.steps),
                                  columns));
  }
  if (running.size() > kMostLines) {
    lines.push_back(fmt::format("  and {} more", running.size() - kMostLines));
  }
  return lines;
}

std::string write_results(const SweepPlan& plan, const SweepFolder& folder) {
  folder.replace("results.csv", results_csv(plan, folder));
  folder.replace("table.txt", sweep_table(plan, folder));
  return sweep_table(plan, folder, terminal_columns());
}

void watch_workers(const SweepPlan& plan, const MonitorOptions& options) {
  Monitor(plan, options).run();
}

void end_with_parent(Index parent) {
  if (parent == 0) {
    return;
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != static_cast<pid_t>(parent)) {
    ::_exit(1);  // it ended before this could be asked for
  }
}

}  // namespace ls::experiments
