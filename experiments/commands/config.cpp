#include <fmt/core.h>

#include "experiments/commands/command.h"
#include "experiments/part.h"
#include "experiments/run.h"
#include "experiments/sweep/config.h"

namespace ls::experiments {
namespace {

class Config final : public Command {
 public:
  static constexpr int kPlace = 50;
  void options(Options& o) override {
    o("config", config_, {.help = "YAML file"});
    o("--set", overrides_, {.help = "a.b=c: override one field"});
    o("--fields", fields_,
      {.help = "list every field of a run with type, default, range and meaning"});
    o("--sweep", sweep_, {.help = "list every field of a sweep instead"});
    o("--comments", comments_, {.help = "print the meaning of each field beside its value"});
    o("--json", json_, {.help = "print JSON"});
  }
  int run(parallel::RankEnv&) override {
    if (sweep_) {
      fmt::print("{}", describe_config<SweepConfig>());
      return 0;
    }
    if (fields_ || config_.empty()) {
      fmt::print("{}", describe_config<RunConfig>());
      return 0;
    }
    const RunConfig config = read_config_file<RunConfig>(config_, overrides_);
    validate_run(config);
    fmt::print("{}", json_ ? dump_json(config) + "\n" : dump_yaml(config, comments_));
    for (const RunModel& model : config.models) {
      fmt::print(stderr, "hash {} of {}\n", part_hash(config, model), layers::model_label(model));
    }
    return 0;
  }

 private:
  std::string config_;
  std::vector<std::string> overrides_;
  bool fields_ = false, sweep_ = false, comments_ = false, json_ = false;
};
LS_COMMAND(Config, "config", "check a config and print it resolved; without one, list the fields");

}  // namespace
}  // namespace ls::experiments
