#include <fmt/core.h>

#include "core/tensor/devices.h"
#include "experiments/checkpoint.h"
#include "experiments/commands/command.h"
#include "experiments/progress.h"
#include "experiments/provenance.h"
#include "experiments/table.h"

namespace ls::experiments {
namespace {

void describe_checkpoint(const std::string& path) {
  const LoadedCheckpoint c = load_checkpoint(path);
  Index count = 0;
  for (const auto& [name, value] : c.parameters) {
    count += value.numel();
  }
  Table t({"fact", "value"});
  t.add({"model", c.data.model});
  t.add({"update", std::to_string(c.data.step)});
  t.add({"tokens", std::to_string(c.data.tokens)});
  t.add({"seed", std::to_string(c.data.seed)});
  t.add({"parameters", std::to_string(count)});
  t.add({"carried states",
         c.data.carried ? std::to_string(c.data.carried->bytes().total()) + " bytes" : "none"});
  t.add({"hash", c.data.part_hash});
  for (const data::DataIdentity& d : c.data.data) {
    t.add({"data", d.str()});
  }
  for (const auto& [name, value] : c.data.provenance) {
    t.add({name, value});
  }
  fmt::print("{}\n{}", t.str(terminal_columns()), c.data.config);
}

class Info final : public Command {
 public:
  static constexpr int kPlace = 60;
  void options(Options& o) override {
    o("checkpoint", checkpoint_,
      {.help = "a checkpoint to describe; without one, this build and machine"});
  }
  int run(parallel::RankEnv& env) override {
    if (!checkpoint_.empty()) {
      describe_checkpoint(checkpoint_);
      return 0;
    }
    Table t({"fact", "value"});
    for (const auto& [name, value] : provenance(env.world().size())) {
      t.add({name, value});
    }
    for (const std::string& line : list_devices()) {
      t.add({"GPU", line});
    }
    fmt::print("{}", t.str(terminal_columns()));
    return 0;
  }

 private:
  std::string checkpoint_;
};
LS_COMMAND(Info, "info", "facts about this build and machine, or about a checkpoint");

}  // namespace
}  // namespace ls::experiments
