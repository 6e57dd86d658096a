#include "experiments/run_state.h"

#include <cmath>
#include <map>

#include "core/base/log.h"
#include "core/io/files.h"
#include "data/batcher.h"
#include "experiments/checkpoint.h"
#include "experiments/model_io.h"
#include "optim/clip.h"
#include "parallel/grad_sync.h"

namespace ls::experiments {
namespace {

/// First row of the batch that rank r carries.
Index carried_row(const RunPart& part, int r) {
  return data::first_row(part.config.batch, r, part.comm.size());
}

/// The carried rows of all ranks as those of the whole batch.
layers::ModelState carried_of_all_ranks(const RunPart& part, const layers::ModelState& mine) {
  if (part.comm.size() == 1) {
    return mine;
  }
  return mine.mapped([&](const Tensor& rows) {
    const Tensor t = rows.contiguous();
    Shape shape = t.shape();
    std::vector<Index> bytes;
    for (int r = 0; r < part.comm.size(); ++r) {
      bytes.push_back((carried_row(part, r + 1) - carried_row(part, r)) * (t.bytes() / shape[0]));
    }
    shape[0] = part.config.batch;
    Tensor all = Tensor::empty(shape, t.dtype());
    part.comm.all_gather(t.raw(), all.raw(), bytes, DType::kU8);
    return all;
  });
}

}  // namespace

bool all_finite(const Tensor& t) {
  return !t.defined() || std::isfinite(optim::gradient_norm({&t, 1}));
}

RunPart::RunPart(const RunConfig& run, std::size_t number, std::uint64_t part_seed,
                 std::string folder, Communicator& ranks)
    : config(run),
      model_config(run.models.at(number)),
      seed(part_seed),
      directory(std::move(folder)),
      comm(ranks),
      task(data::make_task(run.task, {.seed = seed, .stream = carries()})),
      model(std::make_unique<layers::Model>(model_config, model_interface(*task), seed)),
      optimizer(run.optimizer.make()) {
  if (!carries()) {
    return;
  }
  const Index length = task->slices(data::Split::kTrain).front().length;
  if (model->measure_state(2 * length).kv > model->measure_state(length).kv) {
    log_warn(
        "carried keys and values grow with every update, up to the window of attention if it has "
        "one: so do memory and time",
        {{"model", model->label()}});
  }
  LS_CHECK(config.batch >= comm.size(), kConfig,
           "state: carry needs a row of the batch for every rank: batch is {}, there are {} ranks",
           config.batch, comm.size());
}

std::string RunPart::last_good_checkpoint() const {
  const std::vector<std::string> saved = list_checkpoints(checkpoints());
  return saved.empty() ? "no checkpoint was written yet"
                       : "the last good checkpoint is " + saved.back();
}

RunState::RunState(const RunPart& part) {
  for (const ag::Parameter& p : part.model->parameters().items()) {
    std::vector<Tensor>& states = optimizer.emplace_back();
    for (std::size_t i = 0; i < part.optimizer->state_names().size(); ++i) {
      states.push_back(Tensor::zeros(p.var.shape(), p.var.dtype()));
    }
  }
}

void save_state(const RunPart& part, const RunState& state) {
  CheckpointData d;
  if (part.carries() && state.step > 0) {
    d.carried = carried_of_all_ranks(part, state.carried);
  }
  if (!part.writes()) {
    return;
  }
  d.step = state.step;
  d.seed = part.seed;
  d.seconds = state.train_seconds;
  d.wall_seconds = state.wall_seconds;
  d.tokens = state.tokens;
  d.config = dump_yaml(part.config);
  d.config_hash = config_hash(part.config);
  d.model = part.model->label();
  d.optimizer_states = part.optimizer->state_names();
  d.optimizer = state.optimizer;
  d.provenance = provenance(part.comm.size());
  const auto check = [&](const Tensor& t, const std::string& what) {
    LS_CHECK(all_finite(t), kNumeric,
             "update {} of model {}, seed {}, left a value that is not finite in {}; nothing was "
             "saved, {}; lower lr, raise the warm-up or lower clip",
             state.step, d.model, part.seed, what, part.last_good_checkpoint());
  };
  for (std::size_t i = 0; i < state.optimizer.size(); ++i) {
    const ag::Parameter& p = part.model->parameters().items()[i];
    check(p.var.value(), "parameter " + p.name);
    for (std::size_t k = 0; k < d.optimizer_states.size(); ++k) {
      check(state.optimizer[i][k], "the optimizer's " + d.optimizer_states[k] + " of " + p.name);
    }
  }
  create_directories(part.checkpoints());
  save_checkpoint(checkpoint_path(part.checkpoints(), state.step), part.model->parameters(), d);
  prune_checkpoints(part.checkpoints(), part.config.checkpoint.keep);
}

bool restore_state(const RunPart& part, RunState& state) {
  std::string path, before = "its start";
  if (part.comm.rank() == 0) {
    const std::vector<std::string> found = list_checkpoints(part.checkpoints());
    path = found.empty() ? "" : found.back();
    before = found.size() < 2 ? before : found[found.size() - 2];
  }
  parallel::broadcast_text(part.comm, path);
  if (path.empty()) {
    return false;
  }
  const ErrorContext context("resuming; without that file the run goes on from " + before);
  const LoadedCheckpoint loaded = load_checkpoint(path);
  const CheckpointData& d = loaded.data;
  LS_CHECK(d.config_hash == config_hash(part.config) && d.seed == part.seed, kConfig,
           "{} was written by another configuration (hash {}, this one is {}); restore the config "
           "or start over with --fresh",
           path, d.config_hash, config_hash(part.config));
  LS_CHECK(d.optimizer_states == part.optimizer->state_names(), kIo,
           "{}: holds states of another optimizer", path);
  restore_parameters(loaded, path, part.model->parameters());
  std::map<std::string, std::size_t> place;
  for (std::size_t i = 0; i < loaded.parameters.size(); ++i) {
    place[loaded.parameters[i].first] = i;
  }
  for (std::size_t i = 0; i < state.optimizer.size(); ++i) {
    const auto& stored = d.optimizer[place.at(part.model->parameters().items()[i].name)];
    for (std::size_t s = 0; s < stored.size(); ++s) {
      state.optimizer[i][s].copy_(stored[s]);
    }
  }
  state.step = d.step;
  state.tokens = d.tokens;
  state.train_seconds = d.seconds;
  state.wall_seconds = d.wall_seconds;
  if (part.carries() && state.step > 0) {
    LS_CHECK(d.carried && std::ssize(d.carried->position) == part.config.batch, kIo,
             "{}: holds carried states of {} rows, the batch has {}", path,
             d.carried ? d.carried->position.size() : 0, part.config.batch);
    const int rank = part.comm.rank();
    state.carried =
        d.carried->rows(carried_row(part, rank), carried_row(part, rank + 1)).detached();
  }
  return true;
}

}  // namespace ls::experiments
