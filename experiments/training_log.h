#pragma once
// What a run has told of its training and is about to tell. It is saved with the run's state, so
// that a run that goes on tells what an undisturbed one tells.
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "core/base/types.h"

namespace ls::experiments {

struct TrainingLog {
  std::optional<double> smooth_loss;  ///< of the updates so far, recent ones weighing more
  /// Since the last line of metrics.jsonl.
  struct Window {
    double loss = 0;  ///< sum over the updates
    Index updates = 0, without_targets = 0, tokens = 0;
    double seconds = 0;  ///< of training
  } window;
  double data_wait_share = 0;                ///< in the last line
  std::map<std::string, std::string> forms;  ///< of each scan, as it was computed

  /// Of checkpoint.best.
  struct Best {
    std::string metric;
    double value = 0;
    Index step = 0;
  };
  std::optional<Best> best;

  /// One line of JSON, numbers to the last bit.
  std::string json() const;
  /// The inverse. @throws Error(Io) naming `path`
  static TrainingLog from_json(const std::string& text, const std::string& path);
};

void to_json(nlohmann::ordered_json& j, const TrainingLog::Best& b);
void from_json(const nlohmann::ordered_json& j, TrainingLog::Best& b);

}  // namespace ls::experiments
