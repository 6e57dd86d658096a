#pragma once
// What a run has told of its training and is about to tell. It is saved with the run's state, so
// that a run that goes on tells what an undisturbed one tells.
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "core/base/types.h"

namespace ls::experiments {

/// A line of the training log, of the updates since the one before. NaN: unknown, as no update had
/// a target.
struct LogLine {
  double step = 0;
  double loss = 0;       ///< mean over the updates
  double lr = 0;         ///< of the last update, as is
  double grad_norm = 0;  ///< before clipping
  double tokens = 0;     ///< trained on so far
  double tokens_per_s = 0;
  double seconds = 0;  ///< of training so far
  double data_wait_share = 0, memory_bytes = 0, without_targets = 0;

  template <class F>
  void for_each_column(F&& f) {
    f("step", step);
    f("loss", loss);
    f("lr", lr);
    f("grad_norm", grad_norm);
    f("tokens", tokens);
    f("tokens_per_s", tokens_per_s);
    f("seconds", seconds);
    f("data_wait_share", data_wait_share);
    f("memory_bytes", memory_bytes);
    f("without_targets", without_targets);
  }
  /// As metrics.jsonl has it: unknown numbers are null, without_targets is there where it is not 0.
  std::string json() const;
  /// Nothing of a line that is none, cut off or an evaluation's.
  static std::optional<LogLine> from_json(const std::string& line);
};

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
