#pragma once
// Predictors that are no models, measured on the examples that models are tested on: a task that
// one of them solves has a shortcut.
#include <vector>

#include "experiments/result.h"
#include "experiments/run_config.h"

namespace ls::experiments {

/// Results named "(3-gram)", to stand beside those of models. Of tasks with tokens: the label seen
/// most in training behind the same 3 tokens, or 2, or 1; the label of that of so many training
/// examples whose last 32 tokens agree in most places; where labels are tokens also what most often
/// followed the same 3 tokens, or 2, or 1, earlier in the example, and what followed the last place
/// that agrees longest with the end. Of every task its own (data::Task::predictors). They tell
/// classes, so they have no loss. Training examples are those of the first updates, up to 200000
/// labels. Those in context are left out, and a warning says so, where they would take minutes.
std::vector<RunResult> baseline_results(const RunConfig& config, std::uint64_t seed);

}  // namespace ls::experiments
