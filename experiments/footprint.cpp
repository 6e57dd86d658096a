#include "experiments/footprint.h"

#include <algorithm>

#include "core/base/memory.h"
#include "experiments/model_io.h"
#include "experiments/progress.h"

namespace ls::experiments {

void check_memory(const RunConfig& config, const RunModel& model, const data::Task& task,
                  const parallel::MeshExtents& mesh) {
  const DType dtype = model.dtype;
  const Shard shard = config.mesh.shard;
  const int ranks = mesh.data * mesh.sequence;
  const auto states = static_cast<double>(std::ssize(config.optimizer.make()->state_names()));
  const double copies = 2.0 / (shard == Shard::kParameters ? ranks : 1) +
                        states / (shard == Shard::kNone ? 1 : ranks);
  Index length = 0;
  for (const data::Slice& s : task.slices(data::Split::kTrain)) {
    length = std::max({length, s.length, s.max_length});
  }
  // Of each block its input and what its mixer adds; of a whole batch tokens and labels.
  const double tokens = static_cast<double>(config.batch) / mesh.data * static_cast<double>(length);
  const double kept = tokens / mesh.sequence /
                      static_cast<double>(config.accumulate * config.state.segments) *
                      static_cast<double>(model.width * std::ssize(model.layers)) *
                      static_cast<double>(dtype_size(dtype)) * (model.recompute ? 1 : 2);
  const double batch = tokens * 16;
  const auto machine = static_cast<double>(machine_memory());
  const auto check = [&](bool learned_states) {
    const Index parameters = count_parameters(model, model_interface(task), learned_states);
    const double weights = static_cast<double>(parameters) * copies *
                           static_cast<double>(dtype_size(acc_dtype(dtype)));
    LS_CHECK(weights + kept + batch <= machine, kConfig,
             "{} parameters{} take {} with their gradients and optimizer states, a batch of {} "
             "sequences of {} tokens {} at least; this machine has {}; lower width, layers or "
             "batch, raise accumulate, state.segments or mesh.sequence, or set recompute",
             human_count(static_cast<double>(parameters)),
             learned_states ? ", learned states among them," : "", human_bytes(weights),
             config.batch, length, human_bytes(kept + batch), human_bytes(machine));
  };
  check(false);
  if (config.state.learned > 0) {
    check(true);
  }
}

}  // namespace ls::experiments
