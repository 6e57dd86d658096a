#pragma once
// What a run measured, and how its evaluations are written as JSON.
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/identity.h"
#include "data/task.h"
#include "experiments/provenance.h"
#include "experiments/training_log.h"
#include "layers/state.h"

namespace ls::data {
// Here, where the library looks for them.
void to_json(nlohmann::ordered_json& j, const DataIdentity& d);
void from_json(const nlohmann::ordered_json& j, DataIdentity& d);
}  // namespace ls::data

namespace ls::experiments {

/// Metrics by name, in the order of tables: those of data::TaskInfo::metrics, "loss" (nats per
/// label), and "tok_acc/TAG" (and "nmse/TAG", "loss/TAG") of the tags that there are.
struct Metrics {
  std::vector<std::pair<std::string, double>> values;
  /// nullptr where there is none of that name.
  const double* find(const std::string& name) const;
  /// @throws Error(Internal) where there is none of that name
  double at(const std::string& name) const;
};

/// Labels by the number of tokens that the state had read there, this one counted, from the start
/// of the row or of the document in it. Ranges double: 1, 2-3, 4-7, ...
struct PositionRange {
  Index from = 1, to = 1;
  Index labels = 0;
  double loss = 0, accuracy = 0;
};

/// What was measured on one data::Slice.
struct SliceResult {
  std::string name;
  Index length = 0;
  data::SliceSetting setting;
  Index examples = 0;   ///< that have a label
  Index left_out = 0;   ///< examples that eval.max_tokens left out
  std::string not_run;  ///< "needs 3.1 GiB of memory, ...": nothing was measured; empty: it was
  Index labels = 0;
  Metrics metrics;
  std::vector<PositionRange> positions;  ///< those that have labels
};

struct Evaluation {
  Index step = 0;
  data::Split split = data::Split::kValid;
  std::vector<SliceResult> slices;  ///< in the task's order
  double seconds = 0;               ///< of training before it
  /// nullptr where there is none of that name.
  const SliceResult* find(const std::string& slice) const;
};
/// {"step": .., "split": .., "eval": [{"slice": .., "length": .., "setting": {..}, "examples": ..,
/// "labels": .., "metrics": {..}, "positions": {"from": [..], "to": [..], "labels": [..], "loss":
/// [..], "accuracy": [..]}}]}; a value that is not finite is written as null and read as NaN.
void to_json(nlohmann::ordered_json& j, const Evaluation& e);
void from_json(const nlohmann::ordered_json& j, Evaluation& e);

/// The state after so many tokens of a sequence.
struct StateSize {
  Index tokens = 0;
  layers::StateBytes bytes;
};

/// One model, one seed.
struct RunResult {
  std::string run, model;
  std::vector<std::string> metrics;  ///< of the task, headline first
  std::uint64_t seed = 0;
  bool complete = false;       ///< false: stopped by a signal, or before the job's end
  bool stopped_early = false;  ///< complete all the same
  std::string part_hash;       ///< see part.h
  Index parameters = 0, steps = 0, tokens = 0;
  double train_seconds = 0;
  double wall_seconds = 0;  ///< from start to end, evaluation and earlier sittings included
  double tokens_per_s = 0, data_wait_share = 0, train_loss = 0;
  Index train_length = 0;  ///< tokens of the longest training example
  Index state_tokens = 0;
  layers::StateBytes state;                  ///< per sequence, after state_tokens tokens
  std::vector<StateSize> state_sizes;        ///< at the lengths of the last evaluations
  Index zoology_state = 0;                   ///< see state_size.h, at the longest of them
  Index memory_bytes = 0;                    ///< most that the process held while it trained
  std::map<std::string, std::string> forms;  ///< of each scan, as it was computed
  std::vector<Evaluation> history;           ///< the last one is the final one
  std::optional<TrainingLog::Best> best;     ///< the evaluation of checkpoints/best.h5
  std::vector<data::DataIdentity> data;      ///< trained on
  Provenance provenance;
  std::string config;  ///< resolved, as JSON

  /// Of the model, each named once with plus signs between; the model's name of a baseline.
  std::string mixers() const;
  /// All of it but the history, by name.
  nlohmann::ordered_json facts() const;
  /// The inverse. @throws std::exception where one is missing or of another kind
  static RunResult from_facts(const nlohmann::ordered_json& facts);
  /// From the result.json that earlier programs wrote: facts and history. @throws Error(Io) naming
  /// `path` when the text is something else
  static RunResult from_json(const std::string& text, const std::string& path);
};

}  // namespace ls::experiments
