#include "experiments/run_state.h"

#include <cmath>
#include <map>

#include <filesystem>
#include <sstream>

#include <nlohmann/json.hpp>

#include "autograd/functional.h"
#include "core/base/log.h"
#include "core/io/files.h"
#include "core/io/h5.h"
#include "data/batcher.h"
#include "experiments/checkpoint.h"
#include "experiments/model_io.h"
#include "experiments/part.h"
#include "experiments/saved_blocks.h"
#include "optim/clip.h"
#include "parallel/grad_sync.h"
#include "parallel/shards.h"

namespace ls::experiments {
namespace {

/// First row of the batch that rank r has kept the states of.
Index carried_row(const RunPart& part, const RunState& state, int r) {
  return data::first_row(state.carried_rows, r, part.mesh.data().size());
}

/// The states of all ranks' rows, which every rank has in blocks, in the order of the batch.
layers::ModelState in_order(const RunPart& part, const RunState& state) {
  const Index rows = state.carried_rows, ranks = part.mesh.data().size();
  std::vector<Index> order, bytes;
  layers::ModelState out = state.carried;
  for (int r = 0; r < ranks; ++r) {
    const Index first = data::first_row(rows, r, ranks), end = data::first_row(rows, r + 1, ranks);
    for (Index i = first; i < end; ++i) {
      order.push_back(r * ((rows + ranks - 1) / ranks) + i - first);
    }
    bytes.push_back((end - first) * static_cast<Index>(sizeof(Index)));
  }
  for (auto& [path, slot] : out.slots) {
    slot.value = ag::take_rows(ag::Var(slot.value.value().to(cpu())), order);
  }
  out.position.resize(static_cast<std::size_t>(rows));
  part.mesh.data().all_gather(state.carried.position.data(), out.position.data(), bytes,
                              DType::kU8);
  return out;
}

/// The same back.
layers::ModelState in_blocks(const RunPart& part, layers::ModelState whole) {
  const Index rows = std::ssize(whole.position), ranks = part.mesh.data().size();
  const Index block = (rows + ranks - 1) / ranks;
  std::vector<Index> order(static_cast<std::size_t>(block * ranks), -1);
  for (int r = 0; r < ranks; ++r) {
    const Index first = data::first_row(rows, r, ranks), end = data::first_row(rows, r + 1, ranks);
    for (Index i = first; i < end; ++i) {
      order[static_cast<std::size_t>(r * block + i - first)] = i;
    }
  }
  for (auto& [path, slot] : whole.slots) {
    slot.value = ag::take_rows(slot.value, order);
  }
  const int rank = part.mesh.data().rank();
  whole.position = {whole.position.begin() + data::first_row(rows, rank, ranks),
                    whole.position.begin() + data::first_row(rows, rank + 1, ranks)};
  return whole;
}

/// Keys and values as many on every rank: ranks whose documents are shorter have fewer, and get
/// zeros in front, where no row looks.
layers::ModelState with_equal_caches(const RunPart& part, layers::ModelState mine) {
  for (auto& [path, slot] : mine.slots) {
    if (slot.part != layers::StatePart::kKeyValue) {
      continue;
    }
    const Tensor& cache = slot.value.value();
    Shape shape = cache.shape();
    const Index own = shape[1];
    shape[1] = part.mesh.data().reduce_value(own, ReduceOp::kMax);
    Tensor all = Tensor::zeros(shape, cache.dtype());
    all.slice(1, shape[1] - own, shape[1]).copy_(cache);
    slot.value = ag::Var(all);
  }
  return mine;
}

/// The carried rows of all ranks as those of the whole batch.
layers::ModelState carried_of_all_ranks(const RunPart& part, const RunState& state) {
  const layers::ModelState& mine = state.carried;
  if (part.mesh.data().size() == 1) {
    return mine;
  }
  if (part.shares_states()) {
    return in_order(part, state);
  }
  return with_equal_caches(part, mine).mapped([&](const Tensor& rows) {
    const Tensor t = rows.contiguous();
    Shape shape = t.shape();
    std::vector<Index> bytes;
    for (int r = 0; r < part.mesh.data().size(); ++r) {
      bytes.push_back((carried_row(part, state, r + 1) - carried_row(part, state, r)) *
                      (t.bytes() / shape[0]));
    }
    shape[0] = state.carried_rows;
    Tensor all = Tensor::empty(shape, t.dtype());
    part.mesh.data().all_gather(t.raw(), all.raw(), bytes, DType::kU8);
    return all;
  });
}

/// The newest that is whole, "" where there is none; damaged ones that are newer are renamed.
std::string newest_whole_checkpoint(const RunPart& part, bool strict) {
  const std::vector<std::string> found = list_checkpoints(part.checkpoints());
  std::vector<std::string> damaged;
  std::string path, faults;
  for (auto it = found.rbegin(); it != found.rend() && path.empty(); ++it) {
    const std::string fault = h5::damage(*it);
    if (fault.empty()) {
      path = *it;
    } else {
      damaged.push_back(*it);
      faults += (faults.empty() ? "" : "; ") + fault;
    }
  }
  LS_CHECK(
      path.empty() == found.empty(), kIo,
      "every checkpoint is damaged: {}; bring back a copy, or move the folder away to begin at "
      "the first update",
      faults);
  LS_CHECK(damaged.empty() || !strict, kIo,
           "{}; with --resume instead of --resume=strict the run goes on from {}", faults, path);
  for (const std::string& file : damaged) {
    std::error_code error;
    std::filesystem::rename(file, file + ".damaged", error);
    LS_CHECK(!error, kIo, "{}: is damaged and cannot be renamed: {}", file, error.message());
  }
  if (!damaged.empty()) {
    log_warn("THE NEWEST CHECKPOINT IS DAMAGED: " + faults +
                 "; it is put aside as .damaged, and "
                 "the run goes on from the one before",
             {{"checkpoint", path}});
  }
  return path;
}

void restore_optimizer(const RunPart& part, const LoadedCheckpoint& loaded, RunState& state) {
  std::map<std::string, std::size_t> place;
  for (std::size_t i = 0; i < loaded.parameters.size(); ++i) {
    place[loaded.parameters[i].first] = i;
  }
  for (std::size_t i = 0; !part.shards && i < state.optimizer.size(); ++i) {
    const auto& stored = loaded.data.optimizer[place.at(part.model->parameters().items()[i].name)];
    for (std::size_t s = 0; s < stored.size(); ++s) {
      Tensor& to = state.optimizer[i][s];
      to.copy_(stored[s].to(to.device()));
    }
  }
  const ag::ParameterSet& parameters = part.model->parameters();
  for (const auto& block : part.shards ? parameters.blocks() : decltype(parameters.blocks())()) {
    for (const ag::ShardPart& p : parameters.parts_of_shard(block, part.comm.rank())) {
      const auto& stored = loaded.data.optimizer[place.at(parameters.items()[p.parameter].name)];
      for (std::size_t s = 0; s < stored.size(); ++s) {
        Tensor& to = state.optimizer[p.parameter][s];
        const Tensor all = stored[s].reshape({stored[s].numel()});
        to.copy_(all.slice(0, p.begin, p.begin + p.count).to(to.device()));
      }
    }
  }
}

void restore_history(const std::string& lines, const std::string& path, RunState& state) {
  std::istringstream in(lines);
  try {
    for (std::string line; std::getline(in, line);) {
      state.history.push_back(nlohmann::ordered_json::parse(line).get<Evaluation>());
      state.history_lines.push_back(line);
    }
  } catch (const std::exception& e) {
    LS_FAIL(kIo, "{}: its evaluations cannot be read: {}", path, e.what());
  }
}

}  // namespace

bool all_finite(const Tensor& t) {
  return !t.defined() || std::isfinite(optim::gradient_norm({&t, 1}));
}

/// Gradients go through the states of this model.
static void check_segments(layers::Model& model) {
  for (const auto& [path, slot] : model.state_after(1).slots) {
    LS_CHECK(
        !slot.grows, kConfig,
        "segments: {} of model {} keeps something of every token, so no state is of one size at "
        "each border; give attention a window, or set segments: 1 or back: 1",
        path, model.label());
  }
  LS_CHECK(!model.config().recompute, kConfig,
           "segments: no gradients go through states with recompute: true, of model {}; segments "
           "are computed again anyway, leave recompute out",
           model.label());
}

void check_states(const RunConfig& config, layers::Model& model, const data::Task& task,
                  int ranks) {
  const StateConfig& state = config.state;
  const std::vector<data::Slice>& slices = task.slices(data::Split::kTrain);
  const auto divides = [&](const data::LengthFrom& l) { return l.length % state.segments == 0; };
  for (const data::Slice& slice : slices) {
    const bool one = state.segments == 1 || slice.max_length <= slice.length;
    LS_CHECK(
        slice.length % state.segments == 0 &&
            (one || (!slice.grows.empty() && std::ranges::all_of(slice.grows, divides))),
        kConfig,
        "segments: the training setting '{}' has rows of {}{} tokens, which are not cut into {} "
        "segments of equal length; give lengths that {} divides",
        slice.name, slice.length,
        slice.max_length > slice.length ? fmt::format(" to {}", slice.max_length) : "",
        state.segments, state.segments);
  }
  LS_CHECK(model.causal() || (!state.by_row() && state.segments == 1), kConfig,
           "model {} reads from the last token too, so no state of earlier tokens can come in: its "
           "rows start from zeros or from learned states, in one segment",
           model.label());
  if (state.reach() > 1) {
    check_segments(model);
  }
  if (!state.by_row()) {
    return;
  }
  LS_CHECK(
      config.batch >= ranks, kConfig,
      "tbptt, passed, gaussian or fitted needs a row of the batch for every rank: batch is {}, "
      "there are {} ranks",
      config.batch, ranks);
  LS_CHECK(state.passed == 0 || config.batch > 1, kConfig,
           "passed needs a batch of at least 2 rows, a row is not given its own states");
  LS_CHECK(!state.streams() || state.passed == 0 || ranks == 1 || model.measure_state(1).kv == 0,
           kUnsupported,
           "passed beside tbptt keeps keys and values on one rank only, model {} has some; there "
           "are {} ranks",
           model.label(), ranks);
}

RunPart::RunPart(const RunConfig& run, std::size_t number, std::uint64_t part_seed,
                 std::string folder, Communicator& ranks, Device& device, PartOptions asked)
    : config(run),
      model_config(run.models.at(number)),
      seed(part_seed),
      directory(std::move(folder)),
      comm(ranks),
      mesh(ranks, extents_of(run.mesh, ranks.size()), run.mesh.strategy),
      options(std::move(asked)),
      task(data::make_task(run.task, {.seed = seed, .stream = run.state.streams()})),
      model(make_model(config, model_config, model_interface(*task), seed)),
      optimizer(run.optimizer.make()) {
  model->parameters().to(device);
  model->parameters().flatten(comm.size());
  // A part that goes on has its weights in a checkpoint of its own.
  const bool begins = directory.empty() || list_checkpoints(checkpoints()).empty();
  if (begins && !model_config.init.from.empty()) {
    begin_from(model_config.init.from, *model);
  }
  shard();
  if (writes()) {
    data = part_data(*task, model_config);
  }
  check_states(config, *model, *task, mesh.data().size());
  const Index length = task->slices(data::Split::kTrain).front().length;
  if (config.state.streams() &&
      model->measure_state(2 * length).kv > model->measure_state(length).kv) {
    log_warn(
        "carried keys and values grow with every update, up to the window of attention if it has "
        "one: so do memory and time",
        {{"model", model->label()}});
  }
}

void RunPart::shard() {
  if (config.mesh.shard == Shard::kNone || comm.size() == 1) {
    return;
  }
  LS_CHECK(!optim::step_kernels(model->parameters().device().type()), kUnsupported,
           "mesh.shard is {}: no update of shards is there for {}; use none",
           enum_name(config.mesh.shard), model->parameters().device().describe());
  shards = std::make_shared<parallel::CommShards>(comm);
  if (config.mesh.shard == Shard::kParameters) {
    model->parameters().keep_shards(shards);
  }
}

std::string RunPart::last_good_checkpoint() const {
  const std::vector<std::string> saved = list_checkpoints(checkpoints());
  return saved.empty() ? "no checkpoint was written yet"
                       : "the last good checkpoint is " + saved.back();
}

RunState::RunState(const RunPart& part) {
  const ag::ParameterSet& parameters = part.model->parameters();
  optimizer.resize(parameters.items().size());
  for (const auto& block : parameters.blocks()) {
    if (part.shards) {
      std::vector<Tensor>& of_block = optimizer_shards.emplace_back();
      const auto parts = parameters.parts_of_shard(block, part.comm.rank());
      const Index size = parameters.shard_size(block);
      for (std::size_t s = 0; s < part.optimizer->state_names().size(); ++s) {
        of_block.push_back(Tensor::zeros({size}, parameters.items()[block.first].var.dtype(),
                                         parameters.device()));
        for (const ag::ShardPart& p : parts) {
          optimizer[p.parameter].push_back(of_block.back().slice(0, p.at, p.at + p.count));
        }
      }
      continue;
    }
    for (std::size_t s = 0; s < part.optimizer->state_names().size(); ++s) {
      const FlatBuffer flat = parameters.flat_like(block);
      for (std::size_t i = block.first; i < block.second; ++i) {
        optimizer[i].push_back(flat.views()[i - block.first]);
      }
    }
  }
}

static void write_as(const RunPart& part, const RunState& state, SavedBlocks& blocks,
                     std::optional<layers::ModelState> carried, const std::string& path) {
  CheckpointData d;
  d.carried = std::move(carried);
  d.fit = state.fit;
  d.step = state.step;
  d.seed = part.seed;
  d.seconds = state.train_seconds;
  d.wall_seconds = state.wall_seconds;
  d.tokens = state.tokens;
  d.updates = state.updates;
  d.log = state.log.json();
  d.lines = state.lines;
  d.config = dump_yaml(part.config);
  d.part_hash = part_hash(part.config, part.model_config);
  d.model = part.model->label();
  d.interface = part.model->interface();
  std::error_code gone;  // a working directory may be deleted
  d.directory = std::filesystem::current_path(gone).string();
  d.data = part.data;
  for (const std::string& line : state.history_lines) {
    d.history += line + "\n";
  }
  d.optimizer_states = part.optimizer->state_names();
  d.provenance = provenance(part.comm.size(), part.model->parameters().device());
  part.about_to_write();
  create_directories(part.checkpoints());
  save_checkpoint(path, part.model->parameters(), d, [&] { return blocks.next(); });
}

static void save_as(const RunPart& part, const RunState& state, const std::string& path) {
  SavedBlocks blocks(part, state);
  blocks.check_finite([&](const std::string& what) {
    return fmt::format(
        "update {} of model {}, seed {}, left a value that is not finite in {}; nothing was saved, "
        "{}; lower lr, raise the warm-up or lower clip",
        state.step, part.model->label(), part.seed, what, part.last_good_checkpoint());
  });
  std::optional<layers::ModelState> carried;
  if (part.config.state.keeps() && state.step > 0) {
    carried = carried_of_all_ranks(part, state);
  }
  if (!part.writes()) {
    if (!part.directory.empty()) {
      blocks.skip();
    }
    return;
  }
  try {
    write_as(part, state, blocks, std::move(carried), path);
  } catch (...) {
    blocks.skip();
    throw;
  }
}

void save_state(const RunPart& part, const RunState& state) {
  save_as(part, state, checkpoint_path(part.checkpoints(), state.step));
  if (part.writes()) {
    prune_checkpoints(part.checkpoints(), part.config.checkpoint.keep);
  }
}

void save_best(const RunPart& part, const RunState& state) {
  save_as(part, state, best_checkpoint_path(part.checkpoints()));
}

bool restore_state(RunPart& part, RunState& state, const ResumeOptions& options) {
  std::string path;
  if (part.comm.rank() == 0) {
    path = newest_whole_checkpoint(part, options.strict);
  }
  parallel::broadcast_text(part.comm, path);
  if (path.empty()) {
    return false;
  }
  const LoadedCheckpoint loaded = load_checkpoint(path);
  const CheckpointData& d = loaded.data;
  LS_CHECK(d.seed == part.seed, kConfig, "{}: is of seed {}, seed {} looks for it", path, d.seed,
           part.seed);
  check_same_numbers({.path = path,
                      .config = d.config,
                      .model = d.model,
                      .part_hash = d.part_hash,
                      .step = d.step},
                     part.config, part.model_config);
  if (part.writes() && !options.allow_changed_data) {
    part.data = check_same_data(path, d.data, part.data);
  }
  LS_CHECK(d.optimizer_states == part.optimizer->state_names(), kIo,
           "{}: holds states of another optimizer", path);
  {
    const ag::Hold hold = part.model->parameters().hold_all();
    restore_parameters(loaded.parameters, path, part.model->parameters());
    part.model->parameters().keep_values();
  }
  restore_optimizer(part, loaded, state);
  restore_history(d.history, path, state);
  state.step = d.step;
  state.tokens = d.tokens;
  state.updates = d.updates;
  state.log = TrainingLog::from_json(d.log, path);
  state.lines = d.lines;
  state.train_seconds = d.seconds;
  state.wall_seconds = d.wall_seconds;
  if (part.config.state.keeps() && state.step > 0) {
    const Index rows = d.carried ? std::ssize(d.carried->position) : 0;
    LS_CHECK(part.config.state.streams() ? rows == part.config.batch
                                         : 0 < rows && rows <= part.config.batch,
             kIo, "{}: holds carried states of {} rows, the batch has {}", path, rows,
             part.config.batch);
    const int rank = part.mesh.data().rank();
    state.carried_rows = rows;
    state.carried = part.shares_states() ? in_blocks(part, *d.carried)
                                         : d.carried->rows(carried_row(part, state, rank),
                                                           carried_row(part, state, rank + 1));
    for (auto& [name, slot] : state.carried.slots) {
      slot.value = ag::Var(slot.value.value().to(part.model->parameters().device()));
    }
  }
  state.fit = d.fit;
  return true;
}

}  // namespace ls::experiments
