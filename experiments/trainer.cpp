#include "experiments/trainer.h"

#include <algorithm>
#include <cmath>

#include "core/base/log.h"
#include "core/io/files.h"
#include "core/tensor/queue_clock.h"
#include "experiments/evaluate.h"
#include "experiments/part.h"
#include "experiments/run_file.h"
#include "experiments/state_size.h"
#include "experiments/stop.h"

namespace ls::experiments {

Trainer::Trainer(const RunConfig& config, std::size_t model, std::uint64_t seed,
                 std::string directory, Communicator& comm, Device& device, PartOptions options)
    : part_(config, model, seed, std::move(directory), comm, device, std::move(options)),
      state_(part_),
      step_(part_),
      batcher_(*part_.task, {.batch = config.batch,
                             .seed = seed,
                             .rank = part_.mesh.data().rank(),
                             .ranks = part_.mesh.data().size()}) {}

void Trainer::begin() {
  if (!prefetcher_) {
    prefetcher_ = std::make_unique<data::Prefetcher>(
        [this](Index step) { return batcher_.make(step); },
        data::PrefetchOptions{.first_step = state_.step,
                              .end_step = part_.config.steps,
                              .depth = static_cast<int>(part_.config.prefetch)});
  }
  const data::Batch batch = [&] {
    const profile::Scope timed("wait for data");
    return prefetcher_->next();
  }();
  step_.begin(batch, state_);
}

void Trainer::finish(Index most, Recorder* recorder) {
  while (step_.under_way() > most) {
    last_ = step_.finish(state_);
    state_.log.forms = step_.forms().empty() ? state_.log.forms : step_.forms();
    if (recorder) {
      const Clock::time_point now = Clock::now();
      const std::chrono::duration<double> took = now - lap_;
      lap_ = now;
      state_.train_seconds += took.count();
      recorder->update(last_, took.count(), *prefetcher_);
    }
  }
}

double Trainer::steps(Index n) {
  for (Index i = 0; i < n; ++i) {
    begin();
    finish(step_.most_under_way());
  }
  finish(0);
  return last_.updated ? last_.loss : NAN;
}

std::vector<profile::Entry> Trainer::profiled_steps(Index n) {
  step_.record_anew();
  profile::start(queue_clock(part_.model->parameters().device()));
  for (Index i = 0; i < n; ++i) {
    step();
    profile::collect();
  }
  std::vector<profile::Entry> entries = profile::stop();
  step_.record_anew();  // without the marks
  return entries;
}

std::optional<Evaluation> Trainer::evaluate(data::Split split) {
  std::optional<Evaluation> e =
      experiments::evaluate(*part_.model, *part_.task, split, part_.config, part_.seed, part_.mesh,
                            [this] { return stop_signal(part_.comm) != 0; });
  if (e) {
    e->step = state_.step;
  }
  return e;
}

void Trainer::take_time() {
  const Clock::time_point now = Clock::now();
  state_.wall_seconds += std::chrono::duration<double>(now - since_).count();
  since_ = now;
}

void Trainer::save() {
  if (part_.directory.empty() || saved_step_ == state_.step) {
    return;
  }
  saved_step_ = state_.step;
  take_time();
  save_state(part_, state_);
}

void Trainer::write_record(const RunResult& result) {
  if (part_.writes()) {
    part_.about_to_write();
    write_run_record(part_.directory, result, state_.lines);
  }
}

void Trainer::resume(const ResumeOptions& options, const std::optional<RunResult>& earlier) {
  const bool restored = restore_state(part_, state_, options);
  LS_CHECK(
      restored || !earlier, kIo,
      "{}: {} updates are finished and there is no checkpoint to go on from; bring one back, or "
      "give this run another name",
      part_.directory, earlier ? earlier->steps : 0);
  if (!restored) {
    return;
  }
  saved_step_ = state_.step;
  if (earlier && earlier->steps == state_.step) {
    // The last evaluation came after the last checkpoint.
    for (std::size_t i = state_.history.size(); i < earlier->history.size(); ++i) {
      state_.history.push_back(earlier->history[i]);
      state_.history_lines.push_back(evaluation_line(state_.history.back(), state_.train_seconds));
    }
    state_.log.best = earlier->best;
  }
  rebuild_metrics(part_, state_);
}

/// Did it run what the validation after that update did?
bool Trainer::same_slices(const Evaluation& e, Index step) const {
  const auto at = std::ranges::find_if(state_.history, [&](const Evaluation& other) {
    return other.step == step && other.split == e.split;
  });
  return at == state_.history.end() || slices_run(*at) == slices_run(e);
}

bool Trainer::record_evaluation(Recorder& recorder, data::Split split) {
  if (recorder.evaluated(split)) {
    return true;
  }
  std::optional<Evaluation> e = evaluate(split);
  if (!e) {
    return false;
  }
  const std::string& metric = part_.config.checkpoint.best;
  const bool chooses = split == data::Split::kValid && !metric.empty() && !part_.directory.empty();
  const double value = chooses ? mean_metric(*e, metric) : 0;
  std::optional<TrainingLog::Best>& best = state_.log.best;
  const bool alike = !chooses || !best || same_slices(*e, best->step);
  recorder.evaluation(std::move(*e));
  if (!alike) {
    log_warn(
        fmt::format("validation after update {} ran other settings than that of best.h5, "
                    "after update {}: they are not compared",
                    state_.step, best->step));
  } else if (chooses && std::isfinite(value) &&
             (!best || best->metric != metric || is_better(metric, value, best->value))) {
    best = {metric, value, state_.step};
    take_time();
    save_best(part_, state_);
  }
  return true;
}

bool Trainer::train(Recorder& recorder) {
  const RunConfig& config = part_.config;
  while (true) {
    const Index begun = state_.step + step_.under_way();
    const auto due = [&](Index every) { return every > 0 && begun > 0 && begun % every == 0; };
    const bool last = begun >= config.steps;
    // Every rank leaves after the same update.
    const bool stop = !last && begun > 0 && stop_signal(part_.comm) != 0;
    if (last || stop || due(config.eval.every) || due(config.checkpoint.every)) {
      finish(0, &recorder);
    }
    // A checkpoint holds the evaluation after its update. The last one is left to run() where
    // there is no other split.
    if ((!last || has_test()) && due(config.eval.every) &&
        !record_evaluation(recorder, data::Split::kValid)) {
      return false;
    }
    if (due(config.checkpoint.every)) {
      save();
      write_record(result(recorder, false));
    }
    const bool early = stops_early(state_.history, config.stop);
    if (last || stop || early) {
      return last || early;
    }
    if (step_.under_way() == 0) {
      lap_ = Clock::now();
    }
    begin();
    finish(step_.most_under_way(), &recorder);
  }
}

RunResult Trainer::run() {
  const ErrorContext context(fmt::format("training {} seed {}", part_.model->label(), part_.seed));
  Recorder recorder(part_, state_);
  const bool trained = train(recorder);
  save();
  const bool validates = part_.options.validates_last || !has_test();
  const bool complete = trained &&
                        (!validates || record_evaluation(recorder, data::Split::kValid)) &&
                        (!has_test() || record_evaluation(recorder, data::Split::kTest));
  recorder.finish(complete);
  const RunResult r = result(recorder, complete);
  write_record(r);
  return r;
}

Index Trainer::optimizer_bytes() const {
  Index bytes = 0;
  for (const std::vector<Tensor>& states : state_.optimizer) {
    for (const Tensor& t : states) {
      bytes += t.bytes();
    }
  }
  return bytes;
}

RunResult Trainer::result(const Recorder& recorder, bool complete) {
  take_time();
  RunResult r;
  r.run = part_.config.name;
  r.model = part_.model->label();
  r.metrics = part_.task->info().metrics;
  r.seed = part_.seed;
  r.complete = complete;
  r.stopped_early = complete && state_.step < part_.config.steps;
  r.part_hash = part_hash(part_.config, part_.model_config);
  r.parameters = part_.model->parameters().count();
  r.steps = state_.step;
  r.tokens = state_.tokens;
  r.train_seconds = state_.train_seconds;
  r.wall_seconds = state_.wall_seconds;
  r.train_length = longest_training_example(*part_.task);
  r.state_tokens = part_.task->slices(data::Split::kTrain).front().length;
  r.history = state_.history;
  if (!state_bytes_) {
    state_bytes_ = part_.model->measure_state(r.state_tokens);
  }
  r.state = *state_bytes_;
  r.memory_bytes = peak_resident_bytes();
  if (complete) {
    measure_states(*part_.model, state_.step, r);
  }
  r.data = part_.data;
  r.provenance = provenance(part_.comm.size(), part_.model->parameters().device());
  r.config = dump_json(part_.config);
  recorder.fill(r);
  if (part_.shards && complete) {
    const ag::HeldBytes bytes = part_.model->parameters().held_bytes();
    log(LogLevel::kInfo, "memory of this rank's shards",
        {{"parameters and gradients", std::to_string(bytes.shards)},
         {"of blocks while whole, at most", std::to_string(bytes.most)},
         {"optimizer", std::to_string(optimizer_bytes())}});
  }
  return r;
}

}  // namespace ls::experiments
