#include <fmt/core.h>

#include "core/config/yaml.h"
#include "data/task.h"
#include "experiments/commands/command.h"
#include "experiments/commands/scan_text.h"
#include "experiments/progress.h"
#include "experiments/table.h"
#include "layers/channel/channel.h"
#include "layers/mixers/mixer.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "parallel/sequence/strategy.h"

namespace ls::experiments {
namespace {

std::string components(const ComponentCatalog& catalog) {
  Table table({catalog.kind(), "what"});
  for (const std::string& name : catalog.names()) {
    table.add({name, catalog.help(name)});
  }
  return table.str(terminal_columns());
}

std::string ops() {
  Table table({"op", "inputs", "outputs", "what"});
  for (const std::string& name : op_registry().names()) {
    const OpInfo& op = *op_registry().at(name);
    table.add({name, op.contract_in, op.contract_out, op.help});
  }
  return table.str(terminal_columns());
}

std::string families() {
  Table table({"scan op", "family", "kind", "transition", "states", "forms", "what"});
  for (const std::string& name : layers::scan_registry().names()) {
    const layers::ScanInfo& f = *layers::scan_registry().at(name);
    std::string states;
    for (const layers::StatePort& s : f.states) {
      states += (states.empty() ? "" : ", ") + s.name + " (" + std::string(enum_name(s.part)) + ")";
    }
    table.add({name, f.family, std::string(enum_name(f.kind)),
               std::string(f.transition ? f.transition->name : "-"), states, scan_forms(f),
               f.help});
  }
  return table.str(terminal_columns());
}

std::string strategies() {
  Table table({"strategy", "what"});
  for (const std::string& name : parallel::strategy_registry().names()) {
    table.add({name, std::string(parallel::strategy_registry().at(name)->help)});
  }
  return table.str(terminal_columns());
}

const std::vector<std::pair<std::string, std::function<std::string()>>>& kinds() {
  static const std::vector<std::pair<std::string, std::function<std::string()>>> list = {
      {"mixers", [] { return components(layers::TokenMixer::registry()); }},
      {"channels", [] { return components(layers::ChannelMixer::registry()); }},
      {"families", families},
      {"strategies", strategies},
      {"ops", ops},
      {"tasks", [] { return components(data::Task::registry()); }},
      {"optimizers", [] { return components(optim::Optimizer::registry()); }},
      {"schedules", [] { return components(optim::Schedule::registry()); }}};
  return list;
}

class List final : public Command {
 public:
  static constexpr int kPlace = 40;
  void options(Options& o) override {
    std::vector<std::string> names;
    for (const auto& [name, text] : kinds()) {
      names.push_back(name);
    }
    o("kind", kind_, {.help = "what to list; everything without it", .choices = names});
  }
  int run(parallel::RankEnv&) override {
    bool first = true;
    for (const auto& [name, text] : kinds()) {
      if (kind_.empty() || kind_ == name) {
        fmt::print("{}{}", first ? "" : "\n", text());
        first = false;
      }
    }
    return 0;
  }

 private:
  std::string kind_;
};
LS_COMMAND(List, "list",
           "list mixers, ops, scan families, strategies, tasks, optimizers, schedules");

}  // namespace
}  // namespace ls::experiments
