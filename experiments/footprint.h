#pragma once
// The memory that training takes at least, known before any of it is asked for.
#include "data/task.h"
#include "experiments/run_config.h"

namespace ls::experiments {

/// @throws Error(Config) where weights, gradients, optimizer states and the activations that the
///   backward pass keeps do not fit the machine's memory, with what they take and what to change
void check_memory(const RunConfig& config, const RunModel& model, const data::Task& task,
                  const parallel::MeshExtents& mesh);

}  // namespace ls::experiments
