#pragma once
// A whole run: every model and seed of a config, one table, one figure.
#include <functional>
#include <string>
#include <vector>

#include "core/comm/comm.h"
#include "experiments/result.h"
#include "experiments/run_config.h"
#include "experiments/run_state.h"

namespace ls::experiments {

/// What becomes of an earlier sitting's files in the run's folder.
enum class Existing : std::uint8_t {
  kRefuse,  ///< those of a model and seed of this config are an error
  kResume,  ///< finished models and seeds are kept, the others go on from their newest checkpoints
  kFresh,   ///< what the manifest lists of the config's models and seeds is removed first
};
struct RunOptions {
  Existing existing = Existing::kRefuse;
  ResumeOptions resume = {};
};

struct RunOutcome {
  /// Of what is finished: models in the config's order, the seeds of each together, then baselines.
  std::vector<RunResult> results;
  std::vector<std::string> failures;  ///< of parts whose numbers were not finite, one message each
  std::string directory;              ///< OUTPUT/NAME
  /// On rank 0, in the width of the terminal; says what is missing; "" while nothing is finished.
  std::string table;
  std::vector<std::string> figures;  ///< paths, on rank 0 of a complete run
  bool interrupted = false;
};

/// Where a field was written: "models.0.width" -> "run.yaml:4:5". For messages.
using Where = std::function<std::string(const std::string& path)>;

/// Trains everything and writes table.txt and the figures into OUTPUT/NAME. Task and models are all
/// built once before anything is written or trained, so that a mistake in the last is found first.
/// Where the numbers of one part are not finite, the others are trained all the same. The table is
/// written after every part, and says what is missing.
RunOutcome run_all(const RunConfig& config, const Where& where, const RunOptions& options,
                   Communicator& comm);

/// Labels of the models of a config, which validate_run makes sure are unique.
std::vector<std::string> model_labels(const RunConfig& config);
/// @throws Error(Config) where two models share a name, a name is no folder's, or a seed is listed
/// twice
void validate_run(const RunConfig& config);

}  // namespace ls::experiments
