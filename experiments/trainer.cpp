#include "experiments/trainer.h"

#include <csignal>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "autograd/call.h"
#include "autograd/tape.h"
#include "core/io/files.h"
#include "core/log.h"
#include "experiments/provenance.h"
#include "optim/clip.h"
#include "parallel/grad_sync.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

std::atomic<int> stop_flag{0};
void on_stop(int signal) {
  stop_flag = signal;
}

double since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

// Lines of updates that a resumed run makes again are dropped.
std::vector<Json> keep_metrics_until(const std::string& path, Index step) {
  std::vector<Json> kept;
  std::ifstream in(path);
  std::string text;
  for (std::string line; std::getline(in, line);) {
    const Json j = Json::parse(line, nullptr, false);
    if (!j.is_discarded() && j.value("step", Index{0}) <= step) {
      kept.push_back(j);
      text += line + "\n";
    }
  }
  in.close();
  replace_file(path, text);
  return kept;
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

void install_stop_signals() {
  std::signal(SIGINT, on_stop);
  std::signal(SIGTERM, on_stop);
}
bool stop_requested() {
  return stop_flag != 0;
}
int stop_signal() {
  return stop_flag;
}

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
  const data::Batch batch = prefetcher_->next();
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
    parallel::GradSync(comm_).sum(buffers);
  }
  const double scale = totals[1] > 0 ? 1.0 / totals[1] : 0.0;
  const double loss = totals[0] * scale;
  gradient_norm_ = optim::gradient_norm(grads) * scale;
  if (!std::isfinite(loss) || !std::isfinite(gradient_norm_)) {
    carried_ = before;
    explain_non_finite(pieces, std::isfinite(loss) ? "gradient" : "loss");
  }
  const double clip = config_.clip > 0 ? optim::clip_factor(gradient_norm_, config_.clip) : 1.0;
  const optim::StepArgs args{
      .lr = schedule_->lr(step_), .step = step_ + 1, .grad_scale = scale * clip};
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

void Trainer::explain_non_finite(const std::vector<data::Batch>& pieces, const std::string& what) {
  const std::vector<std::string> saved = list_checkpoints(directory_ + "/checkpoints");
  const std::string advice = (saved.empty() ? std::string("no checkpoint was written yet")
                                            : "the last good checkpoint is " + saved.back()) +
                             "; lower lr, raise the warm-up or lower clip";
  std::string where = "it could not be found again";
  try {
    const ag::CheckFinite check;
    for (const data::Batch& b : pieces) {
      forward_backward(b, true);
    }
    for (const ag::Parameter& p : model_->parameters().items()) {
      if (!std::isfinite(optim::gradient_norm(std::span<const Tensor>(&p.var.grad(), 1)))) {
        where = "the sum of gradients of " + p.name + " overflows";
        break;
      }
    }
  } catch (const Error& e) {
    where = e.what();
  }
  for (const ag::Parameter& p : model_->parameters().items()) {
    if (!std::isfinite(optim::gradient_norm(std::span<const Tensor>(&p.var.value(), 1)))) {
      where = "parameter " + p.name + " holds a value that is not finite";
      break;
    }
  }
  LS_FAIL(kNumeric, "the {} of update {} of model {}, seed {}, is not finite: {}; {}", what,
          step_ + 1, model_->label(), seed_, where, advice);
}

Evaluation Trainer::evaluate(data::Split split) {
  Evaluation e = experiments::evaluate(*model_, *task_, split, config_, seed_, comm_);
  e.step = step_;
  return e;
}

void Trainer::save() {
  if (comm_.rank() != 0 || directory_.empty()) {
    return;
  }
  CheckpointData d;
  d.step = step_;
  d.seed = seed_;
  d.seconds = seconds_;
  d.tokens = tokens_;
  d.config = dump_yaml(config_);
  d.config_hash = config_hash(config_);
  d.model = model_->label();
  d.optimizer_states = state_names_;
  d.optimizer = optimizer_state_;
  d.provenance = provenance(comm_.size());
  if (config_.state == "carry") {
    d.carried = carried_;
  }
  create_directories(directory_ + "/checkpoints");
  save_checkpoint(checkpoint_path(directory_ + "/checkpoints", step_), model_->parameters(), d);
  prune_checkpoints(directory_ + "/checkpoints", config_.checkpoint.keep);
}

void Trainer::resume() {
  const std::vector<std::string> found = list_checkpoints(directory_ + "/checkpoints");
  if (found.empty()) {
    return;
  }
  const LoadedCheckpoint loaded = load_checkpoint(found.back());
  LS_CHECK(loaded.data.config_hash == config_hash(config_) && loaded.data.seed == seed_, kConfig,
           "{} was written by another configuration (hash {}, this one is {}); restore the config "
           "or start over with --fresh",
           found.back(), loaded.data.config_hash, config_hash(config_));
  restore_parameters(loaded, found.back(), model_->parameters());
  std::map<std::string, std::size_t> place;
  for (std::size_t i = 0; i < loaded.parameters.size(); ++i) {
    place[loaded.parameters[i].first] = i;
  }
  LS_CHECK(loaded.data.optimizer_states == state_names_, kIo,
           "{}: holds states of another optimizer", found.back());
  for (std::size_t i = 0; i < optimizer_state_.size(); ++i) {
    const auto& stored = loaded.data.optimizer[place.at(model_->parameters().items()[i].name)];
    for (std::size_t s = 0; s < state_names_.size(); ++s) {
      optimizer_state_[i][s].copy_(stored[s]);
    }
  }
  step_ = loaded.data.step;
  tokens_ = loaded.data.tokens;
  seconds_ = loaded.data.seconds;
  if (loaded.data.carried) {
    carried_ = *loaded.data.carried;
  }
  for (const Json& line : keep_metrics_until(directory_ + "/metrics.jsonl", step_)) {
    if (line.contains("eval")) {
      Evaluation e;
      e.step = line["step"];
      e.split = line["split"];
      for (const auto& [slice, metrics] : line["eval"].items()) {
        for (const auto& [name, value] : metrics.items()) {
          e.slices[slice][name] = value.get<double>();
        }
      }
      history_.push_back(std::move(e));
    }
  }
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
  j["tokens_per_s"] = r.tokens_per_s;
  j["data_wait_share"] = r.idle_share;
  j["train_loss"] = r.train_loss;
  j["state_tokens"] = r.state_tokens;
  j["state_bytes"] = {{"matrix", r.state.matrix},
                      {"vector", r.state.vector},
                      {"conv", r.state.conv},
                      {"kv", r.state.kv},
                      {"total", r.state.total()}};
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

  const auto report_eval = [&](const Evaluation& e) {
    history_.push_back(e);
    if (writes) {
      Json line = Json::parse(evaluation_json(e));
      line["seconds"] = seconds_;
      append_line(metrics_path, line.dump());
    }
  };

  while (step_ < config_.steps) {
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
    double stop = stop_requested() ? 1 : 0;
    if (comm_.size() > 1) {
      stop = comm_.reduce_value(stop, ReduceOp::kMax);  // every rank leaves after the same update
    }
    const bool last = step_ == config_.steps;
    if (config_.eval.every > 0 && step_ % config_.eval.every == 0 && !last) {
      report_eval(evaluate(data::Split::kValid));
    }
    if (stop > 0 && !last) {
      save();
      progress.note(
          fmt::format("stopped by a signal after update {}; saved, go on with --resume", step_));
      result.interrupted = true;
      break;
    }
    if (config_.checkpoint.every > 0 && step_ % config_.checkpoint.every == 0 && !last) {
      save();
    }
  }
  if (!result.interrupted) {
    if (history_.empty() || history_.back().step != step_) {
      report_eval(evaluate(task_->slices(data::Split::kTest).empty() ? data::Split::kValid
                                                                     : data::Split::kTest));
      save();
    }
  }
  progress.finish();
  result.model = model_->label();
  result.seed = seed_;
  result.parameters = model_->parameters().count();
  result.steps = step_;
  result.metrics = task_->info().metrics;
  result.tokens = tokens_;
  result.state_tokens = task_->slices(data::Split::kTrain).front().length;
  result.state = model_->measure_state(result.state_tokens);
  result.seconds = seconds_;
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
