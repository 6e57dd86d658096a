#pragma once
// A whole run: every model and seed of a config, one table, one figure.
#include <string>
#include <vector>

#include "experiments/trainer.h"

namespace ls::experiments {

enum class Existing : std::uint8_t {
  kRefuse,  ///< results in the run's folder are an error
  kResume,  ///< finished parts are kept, the others go on from their checkpoints
  kFresh,   ///< what the config's models and seeds left there is removed first
};

struct RunOutcome {
  std::vector<RunResult> results;
  std::string directory, table, figure;
  bool interrupted = false;
};

/// "run.yaml:4:5" of a dotted path of the config.
using Where = std::function<std::string(const std::string& path)>;

/// Trains everything and writes table.txt and figure.svg into OUTPUT/NAME. Task and models are all
/// built once before anything is written or trained, so that a mistake in the last is found first.
RunOutcome run_all(const RunConfig& config, const Where& where, Existing existing,
                   Communicator& comm);

/// OUTPUT/NAME/MODEL/seedN
std::string part_directory(const RunConfig& config, std::size_t model, Index seed);
/// Labels of the models of a config, made unique.
std::vector<std::string> model_labels(const RunConfig& config);
/// Throws where two models would share a name, a task contradicts its state mode, and the like.
void validate_run(const RunConfig& config);

/// Rows: model, parameters, state bytes, headline metrics as mean and spread over seeds, tokens/s.
std::string results_table(const std::vector<RunResult>& results);

}  // namespace ls::experiments
