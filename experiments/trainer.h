#pragma once
// One model, one seed: the training loop.
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/comm/comm.h"
#include "data/batcher.h"
#include "data/prefetch.h"
#include "experiments/checkpoint.h"
#include "experiments/evaluate.h"
#include "experiments/progress.h"
#include "experiments/run_config.h"
#include "parallel/grad_sync.h"

namespace ls::experiments {

struct RunResult {
  std::string model, config_hash;
  std::vector<std::string> metrics;  ///< of the task, headline first
  std::uint64_t seed = 0;
  Index parameters = 0, steps = 0, tokens = 0;
  layers::StateBytes state;  ///< per sequence, after state_tokens tokens
  Index state_tokens = 0;
  double wall_seconds = 0;  ///< from start to end, evaluation and earlier sittings included
  double seconds = 0, tokens_per_s = 0, idle_share = 0, train_loss = 0;
  std::vector<Evaluation> history;  ///< the last one is the final one
  bool interrupted = false;
};

/// What a task asks of a model.
layers::ModelInterface model_interface(const data::Task& task);

class Trainer {
 public:
  /// `directory` gets metrics.jsonl, config.yaml, result.json and checkpoints/. @throws
  /// Error(Config) when config and task do not fit
  Trainer(const RunConfig& config, std::size_t model, std::uint64_t seed, std::string directory,
          Communicator& comm);
  ~Trainer();

  /// Continues from the newest checkpoint in the directory, if there is one; on any number of
  /// ranks, which all see the directory.
  void resume();
  /// Trains to the end, or until a stop is requested.
  RunResult run(bool quiet = false);

  /// One update; the loss before it. @throws Error(Numeric) when loss or gradient is not finite,
  /// naming where that first appeared
  double step();
  /// nullopt when a stop was requested before it was done.
  std::optional<Evaluation> evaluate(data::Split split);
  /// Called by every rank; rank 0 writes. @throws Error(Numeric) when a value is not finite: what
  /// was saved before stays
  void save();

  layers::Model& model() { return *model_; }
  Index steps_done() const { return step_; }
  Index tokens_done() const { return tokens_; }
  double last_gradient_norm() const { return gradient_norm_; }
  const data::Task& task() const { return *task_; }

 private:
  /// Adds gradients of the sum of losses; returns that sum.
  double forward_backward(const data::Batch& batch, bool check_finite);
  [[noreturn]] void explain_non_finite(const std::vector<data::Batch>& pieces,
                                       const std::string& what);
  std::string last_good_checkpoint() const;
  layers::ModelState carried_of_all_ranks();
  layers::SeqOptions sequence_options(const data::Batch& batch) const;
  std::string result_json(const RunResult& result) const;

  const RunConfig& config_;
  const RunModel& model_config_;
  std::uint64_t seed_;
  std::string directory_;
  Communicator& comm_;
  std::unique_ptr<data::Task> task_;
  std::unique_ptr<layers::Model> model_;
  std::unique_ptr<data::Batcher> batcher_;
  std::unique_ptr<data::Prefetcher> prefetcher_;  // made at the first step, so that it starts there
  std::unique_ptr<optim::Optimizer> optimizer_;
  std::unique_ptr<optim::Schedule> schedule_;
  std::vector<std::string> state_names_;
  std::vector<std::vector<Tensor>> optimizer_state_;
  layers::ModelState carried_;
  std::optional<parallel::GradSync> grad_sync_;
  std::map<std::string, std::string> forms_;  // of each scan, as it was computed
  Index step_ = 0, tokens_ = 0, saved_step_ = -1;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  double wall_seconds_ = 0;  // of earlier sittings
  double seconds_ = 0, gradient_norm_ = 0;
  std::vector<Evaluation> history_;
};

}  // namespace ls::experiments
