#pragma once
// What a run measured, and how it is written: result.json, and the evaluations in metrics.jsonl.
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/identity.h"
#include "data/task.h"
#include "experiments/provenance.h"
#include "layers/state.h"

namespace ls::data {
// Here, where the library looks for them.
void to_json(nlohmann::ordered_json& j, const DataIdentity& d);
void from_json(const nlohmann::ordered_json& j, DataIdentity& d);
}  // namespace ls::data

namespace ls::experiments {

/// Metric name -> value: "loss" (nats per label), those of data::TaskInfo::metrics, and
/// "tok_acc/TAG".
using Metrics = std::map<std::string, double>;

struct Evaluation {
  Index step = 0;
  data::Split split = data::Split::kValid;
  std::map<std::string, Metrics> slices;
};
/// {"step": .., "split": .., "eval": {slice: {metric: value}}}; a value that is not finite is
/// written as null and read as NaN.
void to_json(nlohmann::ordered_json& j, const Evaluation& e);
void from_json(const nlohmann::ordered_json& j, Evaluation& e);

/// One model, one seed.
struct RunResult {
  std::string run, model;
  std::vector<std::string> metrics;  ///< of the task, headline first
  std::uint64_t seed = 0;
  bool complete = false;  ///< false: stopped by a signal
  std::string part_hash;  ///< see part.h
  Index parameters = 0, steps = 0, tokens = 0;
  double train_seconds = 0;
  double wall_seconds = 0;  ///< from start to end, evaluation and earlier sittings included
  double tokens_per_s = 0, data_wait_share = 0, train_loss = 0;
  Index state_tokens = 0;
  layers::StateBytes state;                  ///< per sequence, after state_tokens tokens
  std::map<std::string, std::string> forms;  ///< of each scan, as it was computed
  std::vector<Evaluation> history;           ///< the last one is the final one
  std::vector<data::DataIdentity> data;      ///< trained on
  Provenance provenance;
  std::string config;  ///< resolved, as JSON

  /// The text of result.json.
  std::string json() const;
  /// The inverse. @throws Error(Io) naming `path` when the text is something else
  static RunResult from_json(const std::string& text, const std::string& path);
};

}  // namespace ls::experiments
