#pragma once
// Models of equal size: a field of each is solved for.
#include <string>

#include "experiments/run_config.h"
#include "experiments/sweep/config.h"

namespace ls::experiments {

/// Sets the field of the config's only model, which is `model` in tables and messages, so that its
/// state after `at` tokens (from the buffers of a real forward pass) or its parameters come as near
/// to what is asked for as whole numbers allow.
/// @throws Error(Config) where no field of that name is there, or the nearest is more than 5 % off
void match_model(const MatchConfig& match, RunConfig& config, const data::Task& task,
                 const std::string& model);

}  // namespace ls::experiments
