#pragma once
// Evaluation of a model on the slices of a task.
#include <functional>
#include <optional>
#include <set>
#include <string>

#include "data/batcher.h"
#include "experiments/pass.h"
#include "experiments/result.h"
#include "experiments/run_config.h"

namespace ls::experiments {

/// Looks on while a split is evaluated, on each rank at its own rows.
class Onlooker {
 public:
  virtual ~Onlooker() = default;
  /// Tokens after which a segment of such an example ends, besides those of eval.segment.
  virtual std::vector<Index> stops(const data::Slice&) { return {}; }
  /// Segments in order, each with the whole batch, then the batch as a whole.
  virtual void segment(const data::Batch&, const PassSegment&) {}
  virtual void batch(const data::Batch&, const Told&) {}
};

/// One pass over the split, shared by the ranks; the same numbers on any number of them, to
/// rounding. Slices that would take more than config.eval allows are not run, and say so.
/// @param stop  asked before every batch, on every rank; true ends it without a result
/// @throws Error(Config) naming the data where no example of a slice has a target
std::optional<Evaluation> evaluate(layers::Model& model, const data::Task& task, data::Split split,
                                   const RunConfig& config, std::uint64_t seed,
                                   const parallel::Mesh& mesh,
                                   const std::function<bool()>& stop = {},
                                   Onlooker* onlooker = nullptr);
/// Answers to the labels of a batch, i64 [rows,T], kIgnore where there is no label.
using Answers = std::function<Tensor(const data::Batch&)>;
/// The same of something that tells classes alone: there is no loss, nor what is made of it, and
/// nothing by position.
Evaluation evaluate_answers(const Answers& answers, const data::Task& task, data::Split split,
                            const RunConfig& config, std::uint64_t seed);
/// Tokens.
Index longest_training_example(const data::Task& task);
/// Before anything is trained: the same error, and one where the task has no metric of the name of
/// checkpoint.best or stop.metric.
void check_evaluation(const data::Task& task, const RunConfig& config);

/// Names of the slices that were run.
std::set<std::string> slices_run(const Evaluation& e);
/// Mean of a metric over the slices that were run; NaN where none was.
double mean_metric(const Evaluation& e, const std::string& metric);
/// The same over some of them, where several evaluations are compared.
double mean_metric(const Evaluation& e, const std::string& metric,
                   const std::set<std::string>& slices);
/// Has a run ended early (`stop` of the config)? Follows from its validations alone; of those that
/// ran other settings than the best before them nothing is said.
bool stops_early(const std::vector<Evaluation>& history, const StopConfig& stop);
/// Is the first value of a metric better than the second? Less, for "loss", "bpb" and "nmse".
bool is_better(const std::string& metric, double value, double than);

}  // namespace ls::experiments
