#pragma once
// Evaluation of a model on the slices of a task.
#include <functional>
#include <optional>

#include "core/comm/comm.h"
#include "experiments/result.h"
#include "experiments/run_config.h"

namespace ls::experiments {

/// One pass over the split, shared by the ranks; the same numbers on any number of them, to
/// rounding.
/// @param stop  asked before every batch, on every rank; true ends it without a result
/// @throws Error(Config) naming the data where no example of a slice has a target
std::optional<Evaluation> evaluate(layers::Model& model, const data::Task& task, data::Split split,
                                   const RunConfig& config, std::uint64_t seed, Communicator& comm,
                                   const std::function<bool()>& stop = {});
/// Tokens.
Index longest_training_example(const data::Task& task);
/// The same error before anything is trained.
void require_targets(const data::Task& task, const RunConfig& config);

}  // namespace ls::experiments
