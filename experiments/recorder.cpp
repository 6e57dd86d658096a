#include "experiments/recorder.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/io/files.h"

namespace ls::experiments {
namespace {

using Json = nlohmann::ordered_json;

std::string metrics_path(const RunPart& part) {
  return part.directory + "/metrics.jsonl";
}

}  // namespace

Recorder::Recorder(const RunPart& part, RunState& state)
    : part_(part),
      state_(state),
      progress_(fmt::format("{} seed {}", part.model->label(), part.seed), part.config.steps,
                state.step, part.comm.rank() != 0),
      first_tokens_(state.tokens),
      window_tokens_(state.tokens) {
  if (part.writes()) {
    create_directories(part.directory);
    replace_file(part.directory + "/config.yaml", dump_yaml(part.config));
    if (state.step == 0) {
      replace_file(metrics_path(part), "");
    }
  }
}

double Recorder::tokens_per_s() const {
  return static_cast<double>(state_.tokens - first_tokens_) / seconds_;
}

void Recorder::update(const StepReport& report, double seconds, data::Prefetcher& data) {
  seconds_ += seconds;
  smooth_loss_ = smooth_loss_ ? 0.95 * *smooth_loss_ + 0.05 * report.loss : report.loss;
  window_loss_ += report.loss;
  ++window_steps_;
  progress_.update({state_.step, *smooth_loss_, tokens_per_s(), wait_share_, resident_bytes()});
  const bool due = state_.step % part_.config.log_every == 0 || state_.step == part_.config.steps;
  if (!due || !part_.writes()) {
    return;
  }
  wait_share_ = data.take_idle_share();
  const std::chrono::duration<double> window = Clock::now() - window_begin_;
  const Json line{
      {"step", state_.step},
      {"loss", window_loss_ / static_cast<double>(window_steps_)},
      {"lr", report.lr},
      {"grad_norm", report.gradient_norm},
      {"tokens", state_.tokens},
      {"tokens_per_s", static_cast<double>(state_.tokens - window_tokens_) / window.count()},
      {"seconds", state_.train_seconds},
      {"data_wait_share", wait_share_},
      {"memory_bytes", resident_bytes()}};
  append_line(metrics_path(part_), line.dump());
  window_loss_ = 0;
  window_steps_ = 0;
  window_tokens_ = state_.tokens;
  window_begin_ = Clock::now();
}

void Recorder::evaluation(Evaluation e) {
  state_.history_lines.push_back(evaluation_line(e, state_.train_seconds));
  state_.history.push_back(std::move(e));
  if (part_.writes()) {
    append_line(metrics_path(part_), state_.history_lines.back());
  }
}

bool Recorder::evaluated(data::Split split) const {
  return std::ranges::any_of(state_.history, [&](const Evaluation& e) {
    return e.step == state_.step && e.split == split;
  });
}

void Recorder::finish(bool complete) {
  progress_.finish();
  if (!complete) {
    progress_.note(fmt::format("stopped by a signal after update {}; saved, go on with --resume",
                               state_.step));
  }
}

void Recorder::fill(RunResult& result) const {
  const bool trained = seconds_ > 0;
  if (trained) {
    result.tokens_per_s = tokens_per_s();
  } else if (state_.train_seconds > 0) {
    result.tokens_per_s = static_cast<double>(state_.tokens) / state_.train_seconds;
  }
  result.data_wait_share = wait_share_;
  result.train_loss = smooth_loss_.value_or(NAN);
}

std::string evaluation_line(const Evaluation& e, double train_seconds) {
  Json line = e;
  line["seconds"] = train_seconds;
  return line.dump();
}

void rebuild_metrics(const RunPart& part, const RunState& state) {
  if (!part.writes()) {
    return;
  }
  const std::string path = metrics_path(part);
  std::string text;
  std::size_t next = 0;  // evaluation
  const auto add_evaluations = [&](Index before) {
    for (; next < state.history.size() && state.history[next].step < before; ++next) {
      text += state.history_lines[next] + "\n";
    }
  };
  std::istringstream old(std::filesystem::exists(path) ? read_file(path) : std::string());
  for (std::string line; std::getline(old, line);) {
    const Json j = Json::parse(line, nullptr, false);  // the last may have been cut off
    if (!j.is_object() || j.contains("eval") || j.value("step", Index{0}) > state.step) {
      continue;
    }
    add_evaluations(j.value("step", Index{0}));
    text += line + "\n";
  }
  add_evaluations(state.step + 1);
  replace_file(path, text);
}

}  // namespace ls::experiments
