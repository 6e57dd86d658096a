#pragma once
// What one model and seed of a run consists of, and its state between two updates, which a
// checkpoint saves whole.
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/comm/comm.h"
#include "experiments/checkpoint.h"
#include "experiments/result.h"
#include "experiments/run_config.h"
#include "experiments/training_log.h"
#include "parallel/mesh.h"

namespace ls::experiments {

/// @throws Error(Config, Unsupported) where the config's states do not fit task, model or ranks
void check_states(const RunConfig& config, layers::Model& model, const data::Task& task, int ranks);

/// What whoever trains a part may ask of it besides its config; nothing here changes a number.
struct PartOptions {
  bool quiet = false;           ///< shows no progress
  bool test = true;             ///< false: the test split is not read
  bool validates_last = false;  ///< after the last update, whether or not there is a test split
  std::function<void(Index step)> after_update;
  /// Before anything is written into the part's folder. What it throws ends the training.
  std::function<void()> before_write;
};

/// One model and seed, built.
struct RunPart {
  /// The model lies on `device`. @throws Error(Config) when config and task do not fit
  RunPart(const RunConfig& config, std::size_t model, std::uint64_t seed, std::string directory,
          Communicator& comm, Device& device = cpu(), PartOptions options = {});

  /// From now on ranks have shards, as mesh.shard says. @throws Error(Config, Unsupported)
  void shard();
  /// Rows start from last states of other ranks' rows.
  bool shares_states() const { return config.state.passed > 0 && mesh.data().size() > 1; }
  /// Does this process write files?
  bool writes() const { return comm.rank() == 0 && !directory.empty(); }
  void about_to_write() const {
    if (options.before_write) {
      options.before_write();
    }
  }
  std::string checkpoints() const { return directory + "/checkpoints"; }
  /// "the last good checkpoint is ...", for messages.
  std::string last_good_checkpoint() const;

  const RunConfig& config;
  const RunModel& model_config;
  std::uint64_t seed;
  std::string directory;  ///< empty: nothing is written
  Communicator& comm;     ///< all ranks
  parallel::Mesh mesh;
  PartOptions options;
  std::unique_ptr<data::Task> task;
  std::unique_ptr<layers::Model> model;
  std::unique_ptr<optim::Optimizer> optimizer;
  /// Null where every rank has everything (mesh.shard).
  std::shared_ptr<ag::ShardExchange> shards;
  std::vector<data::DataIdentity> data;  ///< that it is trained on; of the process that writes
};

/// Besides the parameters.
struct RunState {
  explicit RunState(const RunPart& part);

  Index step = 0, tokens = 0;
  Index updates = 0;  ///< steps whose batch had a target
  double train_seconds = 0;
  double wall_seconds = 0;  ///< with evaluation and saving
  /// Per parameter, per state; with shards what lies in this rank's, of one axis.
  std::vector<std::vector<Tensor>> optimizer;
  std::vector<std::vector<Tensor>> optimizer_shards;  ///< per block, per state; or none
  /// Last states of the update before that later ones need: slots of this rank's rows, or of all
  /// in blocks (FirstStates::kept); positions of this rank's.
  layers::ModelState carried;
  Index carried_rows = 0;               ///< of the whole batch that these are of
  std::map<std::string, StateFit> fit;  ///< by slot, of fitted states
  TrainingLog log;
  std::vector<LogLine> lines;  ///< of the training log
  std::vector<Evaluation> history;
  std::vector<std::string> history_lines;  ///< of metrics.jsonl, one for each in `history`
};

/// Called by every rank; rank 0 writes. @throws Error(Numeric) when a value is not finite: what was
/// saved before stays
void save_state(const RunPart& part, const RunState& state);
/// The same, as best.h5.
void save_best(const RunPart& part, const RunState& state);
struct ResumeOptions {
  bool strict = false;              ///< a damaged newest checkpoint is an error
  bool allow_changed_data = false;  ///< go on although the data are not those trained on so far
};
/// Takes parameters and state from the newest checkpoint in the part's directory, which all ranks
/// see; false when there is none. One that is damaged is put aside with a warning, and the one
/// before it is taken. Ranks may be more or fewer than those that saved.
/// @throws Error(Config) where the config or the data give what is finished other numbers
bool restore_state(RunPart& part, RunState& state, const ResumeOptions& options);

/// Is every value finite? An undefined tensor has none.
bool all_finite(const Tensor& t);

}  // namespace ls::experiments
