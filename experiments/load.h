#pragma once
// A trained model from its checkpoint.
#include <memory>
#include <string>

#include "experiments/run_config.h"

namespace ls::experiments {

struct LoadedModel {
  RunConfig config;
  std::unique_ptr<data::Task> task;
  std::unique_ptr<layers::Model> model;
  std::uint64_t seed = 0;
  Index step = 0;
};
/// Rebuilds config, task and model from a checkpoint. `overrides` change the stored config (another
/// data path, another evaluation length). @throws Error naming the file and the fault
LoadedModel load_model(const std::string& path, const std::vector<std::string>& overrides = {});

}  // namespace ls::experiments
