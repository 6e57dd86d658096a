#pragma once
// A trained model from its checkpoint.
#include <memory>
#include <string>

#include "data/identity.h"
#include "experiments/run_config.h"

namespace ls::experiments {

struct LoadedModel {
  RunConfig config;
  std::unique_ptr<layers::Model> model;
  std::uint64_t seed = 0;
  Index step = 0;
  std::string path;                      ///< of the checkpoint
  std::vector<data::DataIdentity> data;  ///< trained on
  std::vector<std::string> overrides;    ///< of the stored config, "a.b=c"
};
/// Rebuilds config and model from a checkpoint alone, from any working directory. `overrides`
/// change the stored config (another data path, another evaluation length); relative paths in them
/// start at the working directory, those of the stored config where it was trained.
/// @throws Error naming the file and the fault
LoadedModel load_model(const std::string& path, const std::vector<std::string>& overrides = {});

/// Its task, for evaluation. Warns when the files are not those that the model was trained on,
/// unless an override names other ones.
/// @throws Error where the task's files are missing, or the task asks for another model
std::unique_ptr<data::Task> load_task(const LoadedModel& loaded);

}  // namespace ls::experiments
