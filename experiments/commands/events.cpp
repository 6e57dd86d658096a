#include <fmt/core.h>

#include <algorithm>
#include <ctime>
#include <filesystem>

#include "core/io/files.h"
#include "experiments/commands/command.h"
#include "experiments/event_file.h"
#include "experiments/run_file.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;

class Events final : public Command {
 public:
  static constexpr int kPlace = 27;
  void options(Options& o) override {
    o("folders", folders_, {.help = "folders of runs, or folders above them", .required = true});
  }
  int run(parallel::RankEnv& env) override;

 private:
  std::vector<std::string> folders_;
};

/// Beside the record, in place of the one that was made before.
void write_events(const std::string& folder) {
  const auto begin = static_cast<double>(std::time(nullptr));
  replace_file(folder + "/events.out.tfevents.0.longscan",
               event_file(events_of(read_run_record(folder), begin)));
}

int Events::run(parallel::RankEnv& env) {
  if (env.world().rank() != 0) {
    return 0;
  }
  Index written = 0;
  for (const std::string& folder : folders_) {
    std::error_code error;
    std::vector<std::string> found;
    if (has_run_record(folder)) {
      found.push_back(folder);
    }
    for (const auto& entry : fs::recursive_directory_iterator(folder, error)) {
      if (entry.is_directory(error) && has_run_record(entry.path().string())) {
        found.push_back(entry.path().string());
      }
    }
    LS_CHECK(!found.empty(), kIo, "{}: neither it nor a folder below it has the run.h5 of a run",
             folder);
    std::ranges::for_each(found, write_events);
    written += std::ssize(found);
  }
  fmt::print("{} event files; tensorboard --logdir {}\n", written, folders_.front());
  return 0;
}

LS_COMMAND(Events, "events", "write TensorBoard's event files beside the records of runs");

}  // namespace
}  // namespace ls::experiments
