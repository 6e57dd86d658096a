#include <fmt/core.h>

#include "core/config/yaml.h"
#include "data/task.h"
#include "experiments/commands/command.h"
#include "experiments/progress.h"
#include "experiments/table.h"
#include "layers/model.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

namespace ls::experiments {
namespace {

struct Options {
  std::string name;
  Index width = 256;
  std::vector<Index> tokens = {1, 256, 4096};
};

// One layer of the mixer, built and run: parameters and state come from real buffers.
void describe_mixer(const Options& o) {
  const ComponentCatalog& catalog = layers::TokenMixer::registry();
  fmt::print("{}: {}\n\nfields\n{}\n", o.name, catalog.help(o.name),
             format_fields(describe_component(catalog, o.name)));
  layers::ModelConfig config;
  config.width = o.width;
  config.layers = {Component<layers::TokenMixer>(o.name)};
  config.channel.choose("none");
  layers::Model model(config, {.vocab_in = 2, .classes = 2}, 0);
  Table parameters({"parameter", "shape", "weight decay"});
  Index count = 0;
  const std::string prefix = "blocks.0.mixer.";
  for (const ag::Parameter& p : model.parameters().items()) {
    if (p.name.rfind(prefix, 0) == 0) {
      parameters.add({p.name.substr(prefix.size()), p.var.shape().str(), p.decay ? "yes" : "no"});
      count += p.var.value().numel();
    }
  }
  fmt::print("one layer at width {}, default settings: {} parameters\n{}\n", o.width, count,
             parameters.str());
  Table state({"after tokens", "matrix", "vector", "conv", "kv", "total bytes"});
  for (const Index t : o.tokens) {
    const layers::StateBytes b = model.measure_state(t);
    state.add({std::to_string(t), std::to_string(b.matrix), std::to_string(b.vector),
               std::to_string(b.conv), std::to_string(b.kv), std::to_string(b.total())});
  }
  fmt::print("state of one sequence in bytes, measured from the buffers of a forward pass\n{}",
             state.str());
}

Action setup(CLI::App& app) {
  auto o = std::make_shared<Options>();
  app.add_option("name", o->name, "mixer, channel mixer, task, optimizer or schedule")->required();
  app.add_option("--width", o->width, "model width")->check(CLI::Range(Index{1}, Index{1} << 20));
  app.add_option("--tokens", o->tokens, "lengths at which the state is measured")
      ->check(CLI::Range(Index{1}, Index{1} << 24));
  return [o](parallel::RankEnv&) {
    const ComponentCatalog* const others[] = {
        &layers::ChannelMixer::registry(), &data::Task::registry(), &optim::Optimizer::registry(),
        &optim::Schedule::registry()};
    for (const ComponentCatalog* c : others) {
      const std::vector<std::string> names = c->names();
      if (std::find(names.begin(), names.end(), o->name) != names.end()) {
        fmt::print("{} ({}): {}\n\nfields\n{}", o->name, c->kind(), c->help(o->name),
                   format_fields(describe_component(*c, o->name)));
        return 0;
      }
    }
    describe_mixer(*o);
    return 0;
  };
}
LS_COMMAND(describe, {"describe",
                      "settings, parameters and measured state of a mixer; settings of a task, ...",
                      45, setup});

}  // namespace
}  // namespace ls::experiments
