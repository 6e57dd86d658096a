#pragma once
// Evaluation of a model on the slices of a task.
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "core/comm/comm.h"
#include "data/task.h"
#include "experiments/run_config.h"

namespace ls::experiments {

/// Metric name -> value: "loss" (nats per label), those of data::TaskInfo::metrics, and
/// "tok_acc/TAG".
using Metrics = std::map<std::string, double>;
struct Evaluation {
  Index step = 0;
  std::string split;  ///< "valid", "test"
  std::map<std::string, Metrics> slices;
};

/// One pass over the split, shared by the ranks; the same numbers on any number of them, to
/// rounding.
/// @param stop  asked before every batch, on every rank; true ends it without a result
std::optional<Evaluation> evaluate(layers::Model& model, const data::Task& task, data::Split split,
                                   const RunConfig& config, std::uint64_t seed, Communicator& comm,
                                   const std::function<bool()>& stop = {});
/// {"step": .., "split": .., "eval": {slice: {metric: value}}}
std::string evaluation_json(const Evaluation& e);
/// The inverse; a value that is no number comes back as NaN.
Evaluation evaluation_from_json(const std::string& text);

/// How a config asks for scans to be computed.
layers::SeqOptions scan_options(const ScanConfig& scan);

}  // namespace ls::experiments
