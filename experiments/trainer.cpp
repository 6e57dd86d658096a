#include "experiments/trainer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "autograd/call.h"
#include "autograd/tape.h"
#include "core/base/log.h"
#include "core/base/profile.h"
#include "core/io/files.h"
#include "core/op/report.h"
#include "experiments/provenance.h"
#include "experiments/stop.h"
#include "optim/clip.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

double since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

// The lines up to an update, with their line feeds; a line that was cut off is dropped.
std::string metrics_until(const std::string& path, Index step) {
  std::string kept;
  if (fs::exists(path)) {
    std::istringstream in(read_file(path));
    for (std::string line; std::getline(in, line);) {
      const Json j = Json::parse(line, nullptr, false);
      if (j.is_object() && j.value("step", Index{0}) <= step) {
        kept += line + "\n";
      }
    }
  }
  return kept;
}

std::vector<Evaluation> evaluations_of(const std::string& metrics) {
  std::vector<Evaluation> found;
  std::istringstream in(metrics);
  for (std::string line; std::getline(in, line);) {
    const Json j = Json::parse(line);
    if (j.contains("eval")) {
      found.push_back(evaluation_from_json(line));
    }
  }
  return found;
}

bool all_finite(const Tensor& t) {
  return !t.defined() || std::isfinite(optim::gradient_norm(std::span<const Tensor>(&t, 1)));
}

// Rows [begin, end) of a batch.
data::Batch rows_of(const data::Batch& b, Index begin, Index end) {
  data::Batch out = b;
  const auto cut = [&](Tensor& t) {
    if (t.defined()) {
      t = t.slice(0, begin, end);
    }
  };
  cut(out.tokens);
  cut(out.vectors);
  cut(out.labels);
  cut(out.tags);
  if (!b.documents.empty()) {
    out.documents.assign(b.documents.begin() + begin, b.documents.begin() + end);
  }
  out.first_row += begin;
  out.rows = end - begin;
  out.labelled = 0;
  const std::int64_t* labels = std::as_const(out.labels).data<std::int64_t>();
  for (Index i = 0; i < out.labels.numel(); ++i) {
    out.labelled += labels[i] != data::kIgnore;
  }
  return out;
}

layers::ModelInput input_of(const data::Batch& b) {
  return {b.tokens, b.vectors};
}

}  // namespace

Trainer::Trainer(const RunConfig& config, std::size_t model, std::uint64_t seed,
                 std::string directory, Communicator& comm)
    : config_(config),
      model_config_(config.models.at(model)),
      seed_(seed),
      directory_(std::move(directory)),
      comm_(comm) {
  task_ = data::make_task(config.task, {.seed = seed, .stream = config.state == "carry"});
  model_ = std::make_unique<layers::Model>(model_config_, model_interface(*task_), seed);
  batcher_ = std::make_unique<data::Batcher>(
      *task_, data::BatcherOptions{
                  .batch = config.batch, .seed = seed, .rank = comm.rank(), .ranks = comm.size()});
  optimizer_ = config.optimizer.make();
  schedule_ = config.schedule.make(optim::ScheduleArgs{.peak = model_config_.lr.value_or(config.lr),
                                                       .total_steps = config.steps});
  state_names_ = optimizer_->state_names();
  for (const ag::Parameter& p : model_->parameters().items()) {
    std::vector<Tensor> states;
    for (std::size_t i = 0; i < state_names_.size(); ++i) {
      states.push_back(Tensor::zeros(p.var.shape(), p.var.dtype()));
    }
    optimizer_state_.push_back(std::move(states));
  }
  if (comm.size() > 1) {
    grad_sync_.emplace(comm);
  }
  if (config.state == "carry") {
    const Index length = task_->slices(data::Split::kTrain).front().length;
    if (model_->measure_state(2 * length).kv > model_->measure_state(length).kv) {
      log_warn(
          "carried keys and values grow with every update, up to the window of attention if it "
          "has one: so do memory and time",
          {{"model", model_->label()}});
    }
  }
  LS_CHECK(config.state != "carry" || config.batch >= comm.size(), kConfig,
           "state: carry needs a row of the batch for every rank: batch is {}, there are {} ranks",
           config.batch, comm.size());
}

Trainer::~Trainer() = default;

layers::ModelInterface model_interface(const data::Task& task) {
  const data::TaskInfo& info = task.info();
  return {info.vocab_in, info.vector_width, info.classes, info.class_embeddings};
}

layers::SeqOptions Trainer::sequence_options(const data::Batch& batch) const {
  layers::SeqOptions o = scan_options(config_.scan);
  o.documents = batch.documents.empty() ? nullptr : &batch.documents;
  return o;
}

double Trainer::forward_backward(const data::Batch& batch, bool check_finite) {
  if (batch.rows == 0) {
    return 0;
  }
  ag::Tape tape;
  tape.set_check_finite(check_finite);
  layers::SeqOptions options = sequence_options(batch);
  const bool carry = config_.state == "carry";
  options.incoming = carry && batch.continues ? &carried_ : nullptr;
  options.keep_states = carry;
  const OpReports reports;
  layers::SeqContext seq(batch.rows, batch.length, options);
  const layers::Model::Loss loss = model_->loss(model_->hidden(input_of(batch), seq), batch.labels);
  const auto count = static_cast<double>(batch.labelled);
  const double sum = batch.labelled > 0 ? loss.mean.value().item() * count : 0;
  if (batch.labelled > 0) {
    // Gradients of the sum over tokens; the update divides by the tokens of all pieces and ranks.
    tape.backward(loss.mean, Tensor::full(loss.mean.shape(), loss.mean.dtype(), count));
  }
  if (carry) {
    carried_ = seq.outgoing().detached();
  }
  if (forms_.empty()) {
    forms_ = reports.forms();
  }
  return sum;
}

double Trainer::step() {
  if (!prefetcher_) {
    prefetcher_ = std::make_unique<data::Prefetcher>(
        [this](Index step) { return batcher_->make(step); },
        data::PrefetchOptions{.first_step = step_,
                              .end_step = config_.steps,
                              .depth = static_cast<int>(config_.prefetch)});
  }
  const data::Batch batch = [&] {
    const profile::Scope timed("wait for data");
    return prefetcher_->next();
  }();
  std::vector<data::Batch> pieces;
  for (Index i = 0; i < config_.accumulate; ++i) {
    pieces.push_back(config_.accumulate == 1 ? batch
                                             : rows_of(batch, batch.rows * i / config_.accumulate,
                                                       batch.rows * (i + 1) / config_.accumulate));
  }
  ag::ParameterSet& parameters = model_->parameters();
  parameters.clear_grads();
  double totals[2] = {0, 0};  // loss, labelled tokens
  const layers::ModelState before = carried_;
  for (const data::Batch& b : pieces) {
    totals[0] += forward_backward(b, false);
    totals[1] += static_cast<double>(b.labelled);
  }
  std::vector<Tensor> grads;
  std::vector<parallel::RawBuffer> buffers;
  for (ag::Parameter& p : parameters.items()) {
    if (!p.var.grad().defined() && comm_.size() > 1) {
      p.var.mutable_grad() = Tensor::zeros(p.var.shape(), p.var.dtype());
    }
    if (p.var.grad().defined() && !p.var.grad().is_contiguous()) {
      p.var.mutable_grad() = p.var.grad().contiguous();
    }
    grads.push_back(p.var.grad());
    if (comm_.size() > 1) {
      buffers.push_back({p.var.mutable_grad().raw(), p.var.value().numel(), p.var.grad().dtype()});
    }
  }
  if (comm_.size() > 1) {
    comm_.all_reduce(totals, 2, DType::kF64);
    grad_sync_->sum(buffers);
  }
  const double scale = totals[1] > 0 ? 1.0 / totals[1] : 0.0;
  const double loss = totals[0] * scale;
  {
    const profile::Scope timed("gradient norm");
    gradient_norm_ = optim::gradient_norm(grads) * scale;
  }
  if (!std::isfinite(loss) || !std::isfinite(gradient_norm_)) {
    carried_ = before;
    explain_non_finite(pieces, std::isfinite(loss) ? "gradient" : "loss");
  }
  const double clip = config_.clip > 0 ? optim::clip_factor(gradient_norm_, config_.clip) : 1.0;
  const optim::StepArgs args{
      .lr = schedule_->lr(step_), .step = step_ + 1, .grad_scale = scale * clip};
  const profile::Scope timed("optimizer");
  for (std::size_t i = 0; i < parameters.items().size(); ++i) {
    ag::Parameter& p = parameters.items()[i];
    if (!grads[i].defined()) {
      continue;
    }
    optim::ParamSlice slice{p.var.mutable_value(), grads[i], p.decay};
    optimizer_->update(slice, optimizer_state_[i], args);
  }
  ++step_;
  tokens_ += batch.global_rows * batch.length;
  return loss;
}

std::string Trainer::last_good_checkpoint() const {
  const std::vector<std::string> saved = list_checkpoints(directory_ + "/checkpoints");
  return saved.empty() ? std::string("no checkpoint was written yet")
                       : "the last good checkpoint is " + saved.back();
}

void Trainer::explain_non_finite(const std::vector<data::Batch>& pieces, const std::string& what) {
  std::string where;
  for (const ag::Parameter& p : model_->parameters().items()) {
    if (!all_finite(p.var.value())) {
      where = "parameter " + p.name + " holds a value that is not finite";
      break;
    }
  }
  if (where.empty()) {
    try {
      const ag::CheckFinite check;
      model_->parameters().clear_grads();
      for (const data::Batch& b : pieces) {
        forward_backward(b, true);
      }
      for (const ag::Parameter& p : model_->parameters().items()) {
        if (!all_finite(p.var.grad())) {
          where = "the sum of gradients of " + p.name + " overflows";
          break;
        }
      }
    } catch (const Error& e) {
      // The innermost context of a forward pass is the layer.
      const std::string all = e.what(), begin = "\n  while running ";
      const std::size_t at = all.find(begin);
      where = e.message();
      if (at != std::string::npos) {
        const std::size_t from = at + begin.size();
        where += ", computed while running " + all.substr(from, all.find('\n', from) - from);
      }
    }
  }
  // The rows that show it may lie on another rank; the first rank that found it is heard.
  const int finder =
      comm_.reduce_value(where.empty() ? comm_.size() : comm_.rank(), ReduceOp::kMin);
  if (finder < comm_.size()) {
    parallel::broadcast_text(comm_, where, finder);
  } else {
    where = "it did not appear again in the same update";
  }
  LS_FAIL(kNumeric,
          "the {} of update {} of model {}, seed {}, is not finite: {}; {}; lower lr, raise the "
          "warm-up or lower clip",
          what, step_ + 1, model_->label(), seed_, where, last_good_checkpoint());
}

std::optional<Evaluation> Trainer::evaluate(data::Split split) {
  std::optional<Evaluation> e = experiments::evaluate(*model_, *task_, split, config_, seed_, comm_,
                                                      [this] { return stop_signal(comm_) != 0; });
  if (e) {
    e->step = step_;
  }
  return e;
}

layers::ModelState Trainer::carried_of_all_ranks() {
  if (comm_.size() == 1) {
    return carried_;
  }
  const auto gather = [&](const Tensor& mine) {
    const Tensor t = mine.contiguous();
    Shape shape = t.shape();
    const Index row_bytes = t.bytes() / shape[0];
    std::vector<Index> counts;
    for (Index r = 0; r < comm_.size(); ++r) {
      counts.push_back((data::first_row(config_.batch, r + 1, comm_.size()) -
                        data::first_row(config_.batch, r, comm_.size())) *
                       row_bytes);
    }
    shape[0] = config_.batch;
    Tensor all = Tensor::empty(shape, t.dtype());
    comm_.all_gather(t.raw(), all.raw(), counts, DType::kU8);
    return all;
  };
  layers::ModelState all;
  for (const auto& [name, slot] : carried_.slots) {
    all.slots.emplace(name, layers::StateSlot{ag::Var(gather(slot.value.value())), slot.part});
  }
  const std::vector<std::int64_t> mine(carried_.position.begin(), carried_.position.end());
  for (const std::int64_t p : gather(Tensor::from(mine)).to_vector<std::int64_t>()) {
    all.position.push_back(p);
  }
  return all;
}

void Trainer::save() {
  if (directory_.empty() || saved_step_ == step_) {
    return;
  }
  saved_step_ = step_;
  CheckpointData d;
  if (config_.state == "carry" && step_ > 0) {
    d.carried = carried_of_all_ranks();
  }
  if (comm_.rank() != 0) {
    return;
  }
  d.step = step_;
  d.seed = seed_;
  d.seconds = seconds_;
  d.wall_seconds = wall_seconds_ + since(began_);
  d.tokens = tokens_;
  d.config = dump_yaml(config_);
  d.config_hash = config_hash(config_);
  d.model = model_->label();
  d.optimizer_states = state_names_;
  d.optimizer = optimizer_state_;
  d.provenance = provenance(comm_.size());
  const auto check = [&](const Tensor& t, const std::string& what) {
    LS_CHECK(all_finite(t), kNumeric,
             "update {} of model {}, seed {}, left a value that is not finite in {}; nothing was "
             "saved, {}; lower lr, raise the warm-up or lower clip",
             step_, model_->label(), seed_, what, last_good_checkpoint());
  };
  for (std::size_t i = 0; i < optimizer_state_.size(); ++i) {
    const ag::Parameter& p = model_->parameters().items()[i];
    check(p.var.value(), "parameter " + p.name);
    for (std::size_t k = 0; k < state_names_.size(); ++k) {
      check(optimizer_state_[i][k], "the optimizer's " + state_names_[k] + " of " + p.name);
    }
  }
  create_directories(directory_ + "/checkpoints");
  save_checkpoint(checkpoint_path(directory_ + "/checkpoints", step_), model_->parameters(), d);
  prune_checkpoints(directory_ + "/checkpoints", config_.checkpoint.keep);
}

void Trainer::resume() {
  std::string path, before = "its start";
  if (comm_.rank() == 0) {
    const std::vector<std::string> found = list_checkpoints(directory_ + "/checkpoints");
    path = found.empty() ? "" : found.back();
    before = found.size() < 2 ? before : found[found.size() - 2];
  }
  parallel::broadcast_text(comm_, path);
  if (path.empty()) {
    return;
  }
  const ErrorContext context("resuming; without that file the run goes on from " + before);
  const LoadedCheckpoint loaded = load_checkpoint(path);
  LS_CHECK(loaded.data.config_hash == config_hash(config_) && loaded.data.seed == seed_, kConfig,
           "{} was written by another configuration (hash {}, this one is {}); restore the config "
           "or start over with --fresh",
           path, loaded.data.config_hash, config_hash(config_));
  LS_CHECK(loaded.data.optimizer_states == state_names_, kIo,
           "{}: holds states of another optimizer", path);
  restore_parameters(loaded, path, model_->parameters());
  std::map<std::string, std::size_t> place;
  for (std::size_t i = 0; i < loaded.parameters.size(); ++i) {
    place[loaded.parameters[i].first] = i;
  }
  for (std::size_t i = 0; i < optimizer_state_.size(); ++i) {
    const auto& stored = loaded.data.optimizer[place.at(model_->parameters().items()[i].name)];
    for (std::size_t s = 0; s < state_names_.size(); ++s) {
      optimizer_state_[i][s].copy_(stored[s]);
    }
  }
  step_ = loaded.data.step;
  tokens_ = loaded.data.tokens;
  seconds_ = loaded.data.seconds;
  wall_seconds_ = loaded.data.wall_seconds;
  saved_step_ = step_;
  if (config_.state == "carry" && step_ > 0) {
    LS_CHECK(loaded.data.carried &&
                 static_cast<Index>(loaded.data.carried->position.size()) == config_.batch,
             kIo, "{}: holds carried states of {} rows, the batch has {}", path,
             loaded.data.carried ? loaded.data.carried->position.size() : 0, config_.batch);
    std::vector<Index> rows;
    for (Index r = data::first_row(config_.batch, comm_.rank(), comm_.size());
         r < data::first_row(config_.batch, comm_.rank() + 1, comm_.size()); ++r) {
      rows.push_back(r);
    }
    carried_ =
        comm_.size() == 1 ? *loaded.data.carried : loaded.data.carried->rows(rows).detached();
  }
  std::string metrics;
  if (comm_.rank() == 0) {
    metrics = metrics_until(directory_ + "/metrics.jsonl", step_);
    replace_file(directory_ + "/metrics.jsonl", metrics);
  }
  parallel::broadcast_text(comm_, metrics);
  history_ = evaluations_of(metrics);
}

std::string Trainer::result_json(const RunResult& r) const {
  Json j;
  j["run"] = config_.name;
  j["model"] = r.model;
  j["metrics"] = r.metrics;
  j["seed"] = r.seed;
  j["complete"] = !r.interrupted;
  j["config_hash"] = config_hash(config_);
  j["parameters"] = r.parameters;
  j["steps"] = r.steps;
  j["tokens"] = r.tokens;
  j["train_seconds"] = r.seconds;
  j["wall_seconds"] = r.wall_seconds;
  j["tokens_per_s"] = r.tokens_per_s;
  j["data_wait_share"] = r.idle_share;
  j["train_loss"] = r.train_loss;
  j["state_tokens"] = r.state_tokens;
  j["state_bytes"] = {{"matrix", r.state.matrix},
                      {"vector", r.state.vector},
                      {"conv", r.state.conv},
                      {"kv", r.state.kv},
                      {"total", r.state.total()}};
  j["scan_forms"] = forms_;
  j["history"] = Json::array();
  for (const Evaluation& e : r.history) {
    j["history"].push_back(Json::parse(evaluation_json(e)));
  }
  for (const auto& [name, value] : provenance(comm_.size())) {
    j["provenance"][name] = value;
  }
  j["config"] = Json::parse(dump_json(config_));
  return j.dump(2) + "\n";
}

RunResult Trainer::run(bool quiet) {
  const bool writes = comm_.rank() == 0 && !directory_.empty();
  const std::string metrics_path = directory_ + "/metrics.jsonl";
  if (writes) {
    create_directories(directory_);
    replace_file(directory_ + "/config.yaml", dump_yaml(config_));
    if (step_ == 0) {
      replace_file(metrics_path, "");
    }
  }
  const std::string title = fmt::format("{} seed {}", model_->label(), seed_);
  const ErrorContext context("training " + title);
  Progress progress(title, config_.steps, step_, quiet || comm_.rank() != 0);
  RunResult result;
  const Index first = step_;
  double smooth = NAN, window_loss = 0, train_seconds = 0;
  Index window = 0, window_tokens = tokens_;
  const Index first_tokens = tokens_;
  double idle = 0;
  Clock::time_point window_begin = Clock::now();

  // False when a signal came in the meantime.
  const auto evaluate_and_record = [&](data::Split split) {
    std::optional<Evaluation> e = evaluate(split);
    if (!e) {
      return false;
    }
    if (writes) {
      Json line = Json::parse(evaluation_json(*e));
      line["seconds"] = seconds_;
      append_line(metrics_path, line.dump());
    }
    history_.push_back(std::move(*e));
    return true;
  };
  const auto evaluated = [&] { return !history_.empty() && history_.back().step == step_; };

  while (step_ < config_.steps) {
    if (config_.eval.every > 0 && step_ > 0 && step_ % config_.eval.every == 0 && !evaluated() &&
        !evaluate_and_record(data::Split::kValid)) {
      result.interrupted = true;
      break;
    }
    const Clock::time_point begin = Clock::now();
    const double loss = step();
    const double took = since(begin);
    seconds_ += took;
    train_seconds += took;
    smooth = std::isnan(smooth) ? loss : 0.95 * smooth + 0.05 * loss;
    window_loss += loss;
    ++window;
    const double rate = static_cast<double>(tokens_ - first_tokens) / train_seconds;
    progress.update({step_, smooth, rate, idle, resident_bytes()});
    if (writes && (step_ % config_.log_every == 0 || step_ == config_.steps)) {
      idle = prefetcher_->take_idle_share();
      append_line(metrics_path, Json{{"step", step_},
                                     {"loss", window_loss / static_cast<double>(window)},
                                     {"lr", schedule_->lr(step_ - 1)},
                                     {"grad_norm", gradient_norm_},
                                     {"tokens", tokens_},
                                     {"tokens_per_s", static_cast<double>(tokens_ - window_tokens) /
                                                          since(window_begin)},
                                     {"seconds", seconds_},
                                     {"data_wait_share", idle},
                                     {"memory_bytes", resident_bytes()}}
                                    .dump());
      window_loss = 0;
      window = 0;
      window_tokens = tokens_;
      window_begin = Clock::now();
    }
    // Every rank leaves after the same update.
    if (step_ < config_.steps && stop_signal(comm_) != 0) {
      result.interrupted = true;
      break;
    }
    if (config_.checkpoint.every > 0 && step_ % config_.checkpoint.every == 0) {
      save();
    }
  }
  save();
  if (!result.interrupted && !evaluated()) {
    const bool test = !task_->slices(data::Split::kTest).empty();
    result.interrupted = !evaluate_and_record(test ? data::Split::kTest : data::Split::kValid);
  }
  progress.finish();
  if (result.interrupted) {
    progress.note(
        fmt::format("stopped by a signal after update {}; saved, go on with --resume", step_));
  }
  result.model = model_->label();
  result.seed = seed_;
  result.parameters = model_->parameters().count();
  result.steps = step_;
  result.metrics = task_->info().metrics;
  result.tokens = tokens_;
  result.state_tokens = task_->slices(data::Split::kTrain).front().length;
  result.state = model_->measure_state(result.state_tokens);
  result.seconds = seconds_;
  result.wall_seconds = wall_seconds_ + since(began_);
  result.tokens_per_s = step_ > first  ? static_cast<double>(tokens_ - first_tokens) / train_seconds
                        : seconds_ > 0 ? static_cast<double>(result.tokens) / seconds_
                                       : 0;
  result.idle_share = idle;
  result.train_loss = smooth;
  result.history = history_;
  if (writes) {
    replace_file(directory_ + "/result.json", result_json(result));
  }
  return result;
}

}  // namespace ls::experiments
