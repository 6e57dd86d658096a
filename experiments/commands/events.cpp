#include <fmt/core.h>

#include <algorithm>
#include <ctime>
#include <filesystem>

#include "core/io/files.h"
#include "experiments/commands/command.h"
#include "experiments/event_file.h"

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

/// Beside the metrics, in place of the one that was made before.
void write_events(const fs::path& metrics) {
  const auto begin = static_cast<double>(std::time(nullptr));
  const auto events = events_of(read_file(metrics.string()), begin);
  replace_file((metrics.parent_path() / "events.out.tfevents.0.longscan").string(),
               event_file(events));
}

int Events::run(parallel::RankEnv& env) {
  if (env.world().rank() != 0) {
    return 0;
  }
  Index written = 0;
  for (const std::string& folder : folders_) {
    std::error_code error;
    std::vector<fs::path> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder, error)) {
      if (entry.path().filename() == "metrics.jsonl") {
        found.push_back(entry.path());
      }
    }
    LS_CHECK(!found.empty(), kIo,
             "{}: neither it nor a folder below it has the metrics.jsonl of a run", folder);
    std::ranges::for_each(found, write_events);
    written += std::ssize(found);
  }
  fmt::print("{} event files; tensorboard --logdir {}\n", written, folders_.front());
  return 0;
}

LS_COMMAND(Events, "events", "write TensorBoard's event files beside the metrics of runs");

}  // namespace
}  // namespace ls::experiments
