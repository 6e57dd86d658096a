#include "experiments/train_step.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "autograd/tape.h"
#include "core/base/log.h"
#include "core/comm/lists.h"
#include "core/op/report.h"
#include "core/tensor/context.h"
#include "core/tensor/use_memory.h"
#include "experiments/model_io.h"
#include "experiments/part.h"
#include "optim/step.h"

namespace ls::experiments {
namespace {

/// Updates that the host may be ahead of a device.
constexpr int kAhead = 2;
/// Shapes of batches with a recording; more are run as they come.
constexpr std::size_t kMostRecorded = 32;

/// What is wrong before the update is computed again, or "".
std::string origin_before(const ag::ParameterSet& parameters) {
  for (const ag::Parameter& p : parameters.items()) {
    if (!all_finite(p.var.value())) {
      return "parameter " + p.name + " holds a value that is not finite";
    }
  }
  try {
    check_error_flag(current_stream(parameters.device()));
  } catch (const Error& e) {
    return e.message();
  }
  return "";
}

layers::Stretch stretch_of(const data::Batch& batch, std::vector<Index> seen = {}) {
  return {batch.rows, batch.length, {.documents = batch.documents, .seen = std::move(seen)}};
}

/// Ranks exchange what lies on their devices in the order of streams.
bool sums_on_stream(const RunPart& part) {
  const Device& device = part.model->parameters().device();
  return !device.host_accessible() && device.properties().runs_host_code;
}

/// Does the state have the sizes after an update that it has before? A cache has the rows that are
/// still seen, as many as documents leave it; under a window it is full, and stays so, while one
/// row sees all of it. `after`: positions.
bool keeps_its_size(const layers::ModelState& carried, const std::vector<Index>& after) {
  const Index seen = after.empty() ? 0 : *std::max_element(after.begin(), after.end());
  return std::all_of(carried.slots.begin(), carried.slots.end(), [&](const auto& s) {
    const layers::StateSlot& slot = s.second;
    return slot.part != layers::StatePart::kKeyValue ||
           (slot.most > 0 && slot.value.size(1) == slot.most && seen >= slot.most);
  });
}

}  // namespace

TrainStep::TrainStep(const RunPart& part)
    : part_(part),
      schedule_(make_schedule(part.config, part.model_config)),
      most_under_way_(part.model->parameters().device().host_accessible() ? 0 : kAhead),
      first_(part),
      plan_{part.config.state.segments, part.config.state.reach(),
            part.mesh.runner() ? &part.mesh : nullptr, part.config.state.streams()},
      // What reads backward is laid out by the host, for each batch anew.
      recordable_(part.config.graphs && most_under_way_ > 0 && part.model->causal() &&
                  !part.mesh.runner() &&
                  (part.comm.size() == 1 || (sums_on_stream(part) && !part.shards))) {
  if (part.comm.size() > 1) {
    grad_sync_.emplace(part.comm);
  }
}

StepReport TrainStep::run(const data::Batch& batch, RunState& state) {
  LS_CHECK(under_way_.empty(), kInternal, "{} updates are under way", under_way_.size());
  begin(batch, state);
  return finish(state);
}

void TrainStep::begin(const data::Batch& batch, RunState& state) {
  const ErrorContext context(fmt::format("computing update {}", state.step + under_way() + 1));
  Device& device = part_.model->parameters().device();
  if (!values_.defined()) {
    values_ = optim::step_values(device, state.updates);
  }
  UnderWay u{.pieces = batch.pieces(part_.config.accumulate),
             .starts = {},
             .before = {},
             .lr = schedule_->lr(state.step + under_way()),
             .tokens = batch.global_rows * batch.length,
             .values = {}};
  ag::ParameterSet& parameters = part_.model->parameters();
  parameters.clear_grads();
  parameters.refresh_copies();  // others may have written, e.g. by loading
  u.starts = first_.plan(batch, u.pieces, state);
  u.before = state.carried;
  if (RecordedStep* const recording = recorded(u, state)) {
    go_on_from(*recording, state.carried);
    u.before = state.carried;
    recording->replay(u.pieces, u.starts, u.lr);
    parameters.note_fresh_copies();
    ++replays_;
  } else {
    const std::vector<layers::ModelState> ends = run_pieces(u);
    sum_over_ranks();
    update(Tensor::full({}, DType::kF64, u.lr, device), state);
    state.carried = first_.kept(ends, batch.global_rows);
  }
  if (part_.config.state.keeps()) {
    state.carried.position = positions_after(u);
    state.carried_rows = batch.global_rows;
  }
  u.values = Download(device.host_accessible() ? values_.clone() : values_);
  under_way_.push_back(std::move(u));
}

// Before the first recording in the memory that it will have.
std::vector<layers::ModelState> TrainStep::run_pieces(const UnderWay& u) {
  std::optional<UseMemory> memory;
  if (recordable_ && !recorded_any_) {
    if (!graph_memory_) {
      graph_memory_ = graph_memory(part_.model->parameters().device());
    }
    memory.emplace(part_.model->parameters().device(), graph_memory_);
  }
  Device& device = part_.model->parameters().device();
  const layers::ModelState& base = first_.base(u.before);
  std::vector<layers::ModelState> ends;
  for (std::size_t i = 0; i < u.pieces.size(); ++i) {
    // Where ranks have shards, one without rows still takes part in what others wait for.
    if (u.pieces[i].rows == 0 && part_.model->parameters().held().empty()) {
      continue;
    }
    const PieceStarts* const starts = u.starts.empty() ? nullptr : &u.starts[i];
    layers::ModelState states;
    if (starts && !base.slots.empty()) {
      std::map<std::string, Tensor> noise;
      for (const auto& [path, t] : starts->noise) {
        noise.emplace(path, t.to(device));
      }
      states = FirstStates::of(base, Tensor::from(starts->entries).to(device), noise);
    }
    // A recorded step is always told of documents; kernels may round otherwise where they are not.
    Segments segments = segments_of(u.pieces[i], starts, std::move(states), plan_, options(),
                                    most_under_way_ > 0, device);
    ends.push_back(run(segments));
  }
  return ends;
}

layers::SeqOptions TrainStep::options() const {
  layers::SeqOptions options = sequence_options(part_.config.scan);
  options.keep_states = part_.config.state.keeps() || plan_.count > 1;
  return options;
}

layers::ModelState TrainStep::run(Segments& segments) {
  return run_segments(*part_.model, segments, plan_,
                      [this](Segment& segment, const StateGradients& behind) {
                        return forward_backward(segment, behind);
                      });
}

std::vector<Index> TrainStep::positions_after(const UnderWay& u) const {
  std::vector<Index> out;
  for (std::size_t i = 0; i < u.pieces.size(); ++i) {
    const data::Batch& piece = u.pieces[i];
    const auto after = layers::Stretch(piece.rows, piece.length, u.starts[i].place).seen_after();
    out.insert(out.end(), after.begin(), after.end());
  }
  return out;
}

StepReport TrainStep::finish(RunState& state) {
  const UnderWay u = std::move(under_way_.front());
  under_way_.pop_front();
  hold_back([&] { return u.values.ready(); });
  const Tensor values = u.values.wait();
  const auto value = [&](optim::StepValue v) { return optim::step_value(values, v); };
  const StepReport report{.updated = value(optim::StepValue::kCounted) > 0,
                          .loss = value(optim::StepValue::kLoss),
                          .gradient_norm = value(optim::StepValue::kNorm),
                          .lr = u.lr};
  if (value(optim::StepValue::kStopped) != 0) {
    fail(u, std::isfinite(report.loss), state);
  }
  state.updates = static_cast<Index>(value(optim::StepValue::kUpdates));
  ++state.step;
  state.tokens += u.tokens;
  return report;
}

RecordedStep* TrainStep::recorded(const UnderWay& u, RunState& state) {
  StepShape key{.length = u.pieces.front().length};
  for (const data::Batch& piece : u.pieces) {
    if (!recordable_ || piece.rows == 0) {
      return nullptr;
    }
    key.rows += piece.rows;
  }
  key.documents = room_for_documents(u.pieces);
  if (!u.starts.empty()) {
    const StateConfig& config = part_.config.state;
    const bool begins = config.keeps() && state.carried.slots.empty();
    if (begins || (config.keeps() && state.carried_rows != u.pieces.front().global_rows) ||
        !keeps_its_size(state.carried, positions_after(u))) {
      return nullptr;
    }
    key.carried = true;
    key.documents = std::max(documents_, key.rows);  // positions vary as documents do
  }
  const auto it = shapes_.find(key);
  if (it == shapes_.end()) {
    // The first of a shape is run as it comes: a shape may not come again, and what is made once
    // is made outside the recording.
    if (shapes_.size() < kMostRecorded) {
      shapes_.emplace(key, nullptr);
    }
    return nullptr;
  }
  if (!it->second) {
    it->second = record(u, key.documents, state);
  }
  return it->second.get();
}

Index TrainStep::room_for_documents(const std::vector<data::Batch>& pieces) {
  Index most = 0;
  for (const data::Batch& piece : pieces) {
    if (!piece.documents.empty()) {
      most = std::max(most, stretch_of(piece).documents());
    }
  }
  if (most > documents_) {
    const Index before = std::exchange(documents_, most + most / 2);
    if (before > 0) {
      // Those with less room are not used again, and go when no step reads their inputs.
      current_stream(part_.model->parameters().device()).synchronize();
      std::erase_if(shapes_, [](const auto& s) { return s.first.documents > 0; });
      log(LogLevel::kInfo, "a batch has more documents than there was room for: recorded anew",
          {{"documents", std::to_string(most)}, {"room", std::to_string(documents_)}});
    }
  }
  return most > 0 ? documents_ : 0;
}

void TrainStep::go_on_from(const RecordedStep& recording, layers::ModelState& carried) {
  const layers::ModelState& buffers = recording.carried();
  if (buffers.slots.empty() || !part_.config.state.keeps()) {
    return;
  }
  // Unless an update that is under way has stopped: it may have begun from these buffers.
  std::vector<Tensor> to, from;
  for (const auto& [path, slot] : carried.slots) {
    const Tensor& buffer = buffers.slots.at(path).value.value();
    if (!slot.value.value().shares_storage(buffer)) {
      to.push_back(buffer);
      from.push_back(slot.value.value());
    }
  }
  optim::copy_unless_stopped(to, from, values_);
  const std::vector<Index> position = std::move(carried.position);
  carried = buffers;
  carried.position = position;
}

std::unique_ptr<RecordedStep> TrainStep::record(const UnderWay& u, Index documents,
                                                RunState& state) {
  Device& device = part_.model->parameters().device();
  if (!graph_memory_) {
    graph_memory_ = graph_memory(device);
  }
  recorded_any_ = true;
  const Index rows = u.pieces.front().global_rows;
  const layers::ModelState& base = first_.base(state.carried);
  try {
    return std::make_unique<RecordedStep>(
        StepLayout{u.pieces, u.starts, &base, documents, plan_, options()}, device, kAhead + 1,
        graph_memory_,
        [&](std::span<Segments> pieces, const layers::ModelState& buffers, const Tensor& rate) {
          std::vector<layers::ModelState> ends;
          for (Segments& segments : pieces) {
            ends.push_back(run(segments));
          }
          sum_over_ranks();
          update(rate, state);
          keep_carried(buffers, first_.kept(ends, rows));
        });
  } catch (const Error& e) {
    if (e.kind() != ErrorKind::kDevice) {
      throw;
    }
    recordable_ = false;
    part_.model->parameters().clear_grads();
    log_warn("the training step is not recorded on " + device.describe() +
             " and runs slower than it could: " + e.message() +
             "; graphs: false keeps it from trying");
    return nullptr;
  }
}

Index TrainStep::device_bytes() const {
  const auto* const pool =
      dynamic_cast<const BlockPool*>(&part_.model->parameters().device().allocator());
  return (pool ? pool->reserved_bytes() : 0) +
         (graph_memory_ ? graph_memory_->reserved_bytes() : 0);
}

void TrainStep::record_anew() {
  current_stream(part_.model->parameters().device()).synchronize();
  for (auto& [shape, recording] : shapes_) {
    recording.reset();
  }
}

void TrainStep::keep_carried(const layers::ModelState& buffers, const layers::ModelState& kept) {
  std::vector<Tensor> to, from;
  for (const auto& [path, slot] : kept.slots) {
    to.push_back(buffers.slots.at(path).value.value());
    from.push_back(slot.value.value());
  }
  optim::copy_unless_stopped(to, from, values_);
}

void TrainStep::sum_over_ranks() {
  if (!grad_sync_) {
    return;
  }
  if (sums_on_stream(part_)) {
    sum_on_stream();
    return;
  }
  Tensor values = values_.to(cpu());
  double totals[2] = {optim::step_value(values, optim::StepValue::kLossSum),
                      optim::step_value(values, optim::StepValue::kLabels)};
  part_.comm.all_reduce(totals, 2, DType::kF64);
  optim::set_step_value(values, optim::StepValue::kLossSum, totals[0]);
  optim::set_step_value(values, optim::StepValue::kLabels, totals[1]);
  const bool away = !values_.device().host_accessible();
  if (away) {
    values_.transfer_(values);
  }
  if (totals[1] == 0) {
    return;
  }
  if (part_.model->parameters().keeps_shards()) {
    return;  // summed when their blocks were left
  }
  std::vector<Tensor> grads = gathered_gradients(), here;
  if (part_.shards) {
    sum_into_shards();
    return;
  }
  std::vector<parallel::RawBuffer> buffers;
  for (const Tensor& grad : grads) {
    here.push_back(grad.to(cpu()));
    buffers.push_back({here.back().raw(), grad.numel(), grad.dtype()});
  }
  grad_sync_->sum(buffers);
  for (std::size_t i = 0; away && i < grads.size(); ++i) {
    grads[i].transfer_(here[i]);
  }
}

void TrainStep::sum_into_shards() {
  const ag::ParameterSet& parameters = part_.model->parameters();
  for (std::size_t b = 0; b < parameters.blocks().size(); ++b) {
    const FlatBuffer& flat = parameters.flat_gradients(b);
    Tensor shard = flat.shard(part_.comm.rank());
    part_.shards->sum(flat.whole(), shard);
  }
}

void TrainStep::sum_on_stream() {
  static_assert(static_cast<int>(optim::StepValue::kLossSum) == 0 &&
                static_cast<int>(optim::StepValue::kLabels) == 1);
  begin_all_reduce(part_.comm, {values_.slice(0, 0, 2)}).wait();
  if (part_.model->parameters().keeps_shards()) {
    return;  // summed when their blocks were left
  }
  const std::vector<Tensor> grads = gathered_gradients();
  if (part_.shards) {
    sum_into_shards();
  } else {
    begin_all_reduce(part_.comm, grads).wait();
  }
}

void TrainStep::update_shards(RunState& state) {
  ag::ParameterSet& parameters = part_.model->parameters();
  const bool kept = parameters.keeps_shards();
  const auto blocks = parameters.blocks();
  optim::UpdateTargets targets{{}, state.optimizer};
  std::vector<Tensor> grads;
  const int rank = part_.comm.rank();
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const Tensor value =
        kept ? parameters.held()[b]->value_shard() : parameters.flat_values(b).shard(rank);
    const Tensor grad =
        kept ? parameters.held()[b]->gradient_shard() : parameters.flat_gradients(b).shard(rank);
    for (const ag::ShardPart& p : parameters.parts_of_shard(blocks[b], rank)) {
      targets.params.push_back({value.slice(0, p.at, p.at + p.count),
                                grad.slice(0, p.at, p.at + p.count),
                                parameters.items()[p.parameter].decay});
      grads.push_back(targets.params.back().grad);
    }
  }
  optim::put_squares(values_, grads);
  begin_all_reduce(part_.comm, {optim::value_slot(values_, optim::StepValue::kNorm)}).wait();
  optim::take_root(values_);
  optim::update_all(*part_.optimizer, std::move(targets), values_, part_.config.clip, true);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    if (kept) {
      parameters.held()[b]->note_written();
    } else {
      Tensor whole = parameters.flat_values(b).whole();
      part_.shards->gather(parameters.flat_values(b).shard(rank), whole);
      whole.bump_version();
    }
  }
  parameters.refresh_copies();
}

void TrainStep::update(const Tensor& rate, RunState& state) {
  optim::value_slot(values_, optim::StepValue::kRate).copy_(rate);
  if (part_.shards) {
    update_shards(state);
    return;
  }
  const std::vector<Tensor> grads = gathered_gradients();
  optim::UpdateTargets targets{{}, state.optimizer};
  for (std::size_t i = 0; i < grads.size(); ++i) {
    ag::Parameter& p = part_.model->parameters().items()[i];
    targets.params.push_back({p.var.mutable_value(), grads[i], p.decay});
  }
  optim::update_all(*part_.optimizer, std::move(targets), values_, part_.config.clip);
  part_.model->parameters().refresh_copies();
}

void TrainStep::fail(const UnderWay& u, bool loss_is_finite, const RunState& state) {
  // The updates behind it have changed nothing.
  under_way_.clear();
  Origin origin = origin_of_non_finite(u);
  // The rows that show it may lie on another rank; the rank that found it earliest is heard, the
  // first of those.
  Communicator& comm = part_.comm;
  const Index ranks = comm.size();
  constexpr Index kNowhere = std::numeric_limits<Index>::max();
  const Index found = comm.reduce_value(
      origin.text.empty() ? kNowhere : origin.passed * ranks + comm.rank(), ReduceOp::kMin);
  if (found != kNowhere) {
    parallel::broadcast_text(comm, origin.text, static_cast<int>(found % ranks));
  } else {
    origin.text = "it did not appear again in the same update";
  }
  LS_FAIL(kNumeric,
          "the {} of update {} of model {}, seed {}, is not finite: {}; {}; lower lr, raise the "
          "warm-up or lower clip",
          loss_is_finite ? "gradient" : "loss", state.step + 1, part_.model->label(), part_.seed,
          origin.text, part_.last_good_checkpoint());
}

StateGradients TrainStep::forward_backward(Segment& segment, const StateGradients& behind) {
  const PieceInputs& piece = segment.inputs;
  layers::SeqContext& seq = *segment.seq;
  ag::Tape tape;
  const OpReports reports;
  layers::Model& model = *part_.model;
  const layers::Model::Loss loss = model.loss(model.hidden(piece.input, seq), piece.labels);
  // Gradients of the sum over tokens; the update divides by the tokens of all pieces and ranks. A
  // batch without labels has none, but what other ranks wait for still runs.
  std::vector<ag::Var> ends = {loss.sum, seq.added_loss()};
  std::vector<Tensor> seeds(2);
  if (segment.labelled) {
    seeds[0] = Tensor::full(loss.sum.shape(), loss.sum.dtype(), 1, piece.labels.device());
    if (ends[1].defined()) {
      seeds[1] = piece.count.to(ends[1].dtype()).view(ends[1].shape());
    }
  }
  for (const auto& [path, gradient] : behind) {
    ends.push_back(seq.outgoing().slots.at(path).value);
    seeds.push_back(gradient);
  }
  tape.backward(ends, seeds);
  if (segment.labelled) {
    optim::add_loss(values_, loss.sum.value(), piece.count);
  }
  if (forms_.empty()) {
    forms_ = reports.forms();
  }
  StateGradients before;
  for (const auto& [path, slot] : segment.incoming.slots) {
    if (slot.value.requires_grad() && slot.value.grad().defined()) {
      before.emplace(path, slot.value.grad());
    }
  }
  return before;
}

std::vector<Tensor> TrainStep::gathered_gradients() {
  std::vector<Tensor> grads;
  for (ag::Parameter& p : part_.model->parameters().items()) {
    if (!p.var.grad().defined()) {
      const Tensor& place = p.var.grad_place();  // none where it was added later
      p.var.mutable_grad() =
          place.defined() ? place
                          : Tensor::empty(p.var.shape(), p.var.dtype(), p.var.value().device());
      p.var.mutable_grad().zero_();
    }
    if (!p.var.grad().is_contiguous()) {
      p.var.mutable_grad() = p.var.grad().contiguous();
    }
    grads.push_back(p.var.grad());
  }
  return grads;
}

TrainStep::Origin TrainStep::origin_of_non_finite(const UnderWay& u) {
  ag::ParameterSet& parameters = part_.model->parameters();
  // Blocks are whole from here on: what is exchanged below are states of split sequences.
  const ag::Hold hold = parameters.hold_all();
  for (const std::shared_ptr<ag::HeldBlock>& block : parameters.held()) {
    block->hold_gradients();
  }
  Origin origin{.text = origin_before(parameters)};
  if (part_.comm.reduce_value(origin.text.empty() ? 0 : 1, ReduceOp::kMax) != 0) {
    return origin;
  }
  const ag::CheckFinite check(ag::CheckFinite::Found::kKept);
  ag::Tape checked;  // those inside do as it does
  checked.set_check_finite(true);
  parameters.clear_grads();
  run_pieces(u);
  origin.passed = check.passed();
  if (check.first()) {
    // The innermost context of a forward pass is the layer.
    const std::string all = check.first()->what(), begin = "\n  while running ";
    origin.text = check.first()->message();
    if (const std::size_t at = all.find(begin); at != std::string::npos) {
      const std::size_t from = at + begin.size();
      origin.text += ", computed while running " + all.substr(from, all.find('\n', from) - from);
    }
    return origin;
  }
  for (const ag::Parameter& p : parameters.items()) {
    if (!all_finite(p.var.grad())) {
      origin.text = "the sum of gradients of " + p.name + " overflows";
      return origin;
    }
  }
  return origin;
}

}  // namespace ls::experiments
