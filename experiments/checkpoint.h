#pragma once
// Checkpoints: one HDF5 file with everything that a run needs to go on bit for bit.
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "autograd/parameter.h"
#include "data/identity.h"
#include "experiments/provenance.h"
#include "experiments/training_log.h"
#include "layers/model.h"

namespace ls::experiments {

/// Of a state's entries by head: along the axis behind the rows.
struct StateFit {
  std::vector<double> mean, std;
};

/// What a checkpoint holds besides the parameters themselves.
struct CheckpointData {
  Index step = 0;     ///< batches done; also the position in data and schedule
  Index updates = 0;  ///< made: without those for batches that had no target
  Index tokens = 0;   ///< trained on so far
  std::uint64_t seed = 0;
  double seconds = 0;       ///< training time so far
  double wall_seconds = 0;  ///< the same with evaluation and saving
  std::string config;       ///< resolved, YAML
  std::string part_hash;    ///< of what the numbers depend on, see part_hash in part.h
  std::string model;        ///< label within the config
  layers::ModelInterface interface;
  std::string directory;                       ///< relative paths of the config start here
  std::vector<data::DataIdentity> data;        ///< trained on
  std::string log;                             ///< TrainingLog, as JSON
  std::vector<LogLine> lines;                  ///< of the training log; none in older files
  std::string history;                         ///< lines of metrics.jsonl that are evaluations
  std::vector<std::string> optimizer_states;   ///< names, as Optimizer::state_names
  std::vector<std::vector<Tensor>> optimizer;  ///< per parameter, per state
  std::optional<layers::ModelState> carried;
  std::map<std::string, StateFit> fit;  ///< by slot, of fitted states
  Provenance provenance;
};

inline constexpr std::int64_t kCheckpointVersion = 2;

/// Neighbouring parameters, and the optimizer's states of them.
struct SavedBlock {
  std::vector<Tensor> values;
  std::vector<std::vector<Tensor>> states;  ///< by parameter, per state
};

/// Writes to a temporary file beside `path`, forces it to the disk, renames. @throws Error(Io); a
/// file already at `path` is then untouched. `next_block`, where it is given, says the parameters
/// in their order, piece by piece, and what data.optimizer would.
void save_checkpoint(const std::string& path, const ag::ParameterSet& parameters,
                     const CheckpointData& data,
                     const std::function<SavedBlock()>& next_block = {});

/// Reads a checkpoint whole and verifies version, the checksum of the file, that every value is
/// finite and that the optimizer's states have the shapes of their parameters, before anything is
/// given out. @throws Error(Io) naming file and fault
struct LoadedCheckpoint {
  CheckpointData data;
  std::vector<std::pair<std::string, Tensor>> parameters;
};
LoadedCheckpoint load_checkpoint(const std::string& path);

/// The parameters alone. @throws as load_checkpoint
std::vector<std::pair<std::string, Tensor>> load_parameters(const std::string& path);

/// Copies loaded values into a model's parameters. @throws Error(Io) listing what is missing, what
/// is too many and which shapes differ
void restore_parameters(const std::vector<std::pair<std::string, Tensor>>& loaded,
                        const std::string& path, ag::ParameterSet& parameters);

/// DIR/step_00001000.h5
std::string checkpoint_path(const std::string& directory, Index step);
/// DIR/best.h5, which is not among the numbered ones.
std::string best_checkpoint_path(const std::string& directory);
/// Checkpoints of a directory by ascending step; left-over temporary files are not among them.
std::vector<std::string> list_checkpoints(const std::string& directory);
/// Removes all but the newest `keep`, and left-over temporary files.
void prune_checkpoints(const std::string& directory, Index keep);

}  // namespace ls::experiments
