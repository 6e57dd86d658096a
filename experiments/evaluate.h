#pragma once
// Evaluation of a model on the slices of a task.
#include <map>
#include <string>

#include "core/comm.h"
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
Evaluation evaluate(layers::Model& model, const data::Task& task, data::Split split,
                    const RunConfig& config, std::uint64_t seed, Communicator& comm);
/// {"step": .., "split": .., "eval": {slice: {metric: value}}}
std::string evaluation_json(const Evaluation& e);

/// How a config asks for scans to be computed.
layers::SeqOptions scan_options(const ScanConfig& scan);

}  // namespace ls::experiments
