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

/// Of a modified checkout; a run that goes on has it already.
void keep_patch(const std::string& path) {
  const std::string_view patch = tree_patch();
  if (!patch.empty() && !(std::filesystem::exists(path) && read_file(path) == patch)) {
    replace_file(path, patch);
  }
}

}  // namespace

Recorder::Recorder(const RunPart& part, RunState& state)
    : part_(part),
      state_(state),
      progress_(fmt::format("{} seed {}", part.model->label(), part.seed), part.config.steps,
                state.step, part.comm.rank() != 0 || part.options.quiet),
      first_tokens_(state.tokens),
      told_tokens_(state.tokens) {
  if (part.writes()) {
    part.about_to_write();
    create_directories(part.directory);
    replace_file(part.directory + "/config.yaml", dump_yaml(part.config));
    keep_patch(part.directory + "/tree.patch");
    if (state.step == 0) {
      replace_file(metrics_path(part), "");
    }
  }
}

void Recorder::update(const StepReport& report, double seconds, data::Prefetcher& data) {
  seconds_ += seconds;
  TrainingLog& log = state_.log;
  TrainingLog::Window& window = log.window;
  window.tokens += state_.tokens - told_tokens_;
  window.seconds += seconds;
  told_tokens_ = state_.tokens;
  if (report.updated) {
    log.smooth_loss = log.smooth_loss ? 0.95 * *log.smooth_loss + 0.05 * report.loss : report.loss;
    window.loss += report.loss;
    ++window.updates;
  } else {
    ++window.without_targets;
  }
  progress_.update({state_.step, log.smooth_loss.value_or(NAN),
                    static_cast<double>(state_.tokens - first_tokens_) / seconds_,
                    log.data_wait_share, resident_bytes()});
  if (part_.options.after_update) {
    part_.options.after_update(state_.step);
  }
  const bool due = state_.step % part_.config.log_every == 0;
  if (due || state_.step == part_.config.steps) {
    log.data_wait_share = data.take_idle_share();
    write_line(report);
  }
  if (due) {  // not by the last line of a run, which may be given more steps
    window = {};
  }
}

void Recorder::write_line(const StepReport& report) {
  const TrainingLog::Window& window = state_.log.window;
  const LogLine line{
      .step = static_cast<double>(state_.step),
      .loss = window.updates > 0 ? window.loss / static_cast<double>(window.updates) : NAN,
      .lr = report.lr,
      .grad_norm = report.updated ? report.gradient_norm : NAN,
      .tokens = static_cast<double>(state_.tokens),
      .tokens_per_s = static_cast<double>(window.tokens) / window.seconds,
      .seconds = state_.train_seconds,
      .data_wait_share = state_.log.data_wait_share,
      .memory_bytes = static_cast<double>(resident_bytes()),
      .without_targets = static_cast<double>(window.without_targets)};
  state_.lines.push_back(line);
  if (part_.writes()) {
    part_.about_to_write();
    append_line(metrics_path(part_), line.json());
  }
}

void Recorder::evaluation(Evaluation e) {
  e.seconds = state_.train_seconds;
  state_.history_lines.push_back(evaluation_line(e, state_.train_seconds));
  state_.history.push_back(std::move(e));
  if (part_.writes()) {
    part_.about_to_write();
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
    progress_.note(fmt::format("stopped after update {}; saved, go on with --resume", state_.step));
  }
}

void Recorder::fill(RunResult& result) const {
  result.tokens_per_s =
      state_.train_seconds > 0 ? static_cast<double>(state_.tokens) / state_.train_seconds : 0;
  result.data_wait_share = state_.log.data_wait_share;
  result.train_loss = state_.log.smooth_loss.value_or(NAN);
  result.forms = state_.log.forms;
  result.best = state_.log.best;
}

std::string evaluation_line(const Evaluation& e, double train_seconds) {
  Json line = e;
  line["seconds"] = train_seconds;
  return line.dump();
}

void rebuild_metrics(const RunPart& part, RunState& state) {
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
  const auto add = [&](const LogLine& line) {
    if (line.step <= static_cast<double>(state.step)) {
      add_evaluations(static_cast<Index>(line.step));
      text += line.json() + "\n";
    }
  };
  if (!state.lines.empty()) {
    std::ranges::for_each(state.lines, add);
  } else {  // a checkpoint of an earlier program, or before the first line
    std::istringstream old(std::filesystem::exists(path) ? read_file(path) : std::string());
    for (std::string line; std::getline(old, line);) {
      if (const std::optional<LogLine> l = LogLine::from_json(line)) {
        add(*l);
        state.lines.push_back(*l);
      }
    }
    std::erase_if(state.lines,
                  [&](const LogLine& line) { return line.step > static_cast<double>(state.step); });
  }
  add_evaluations(state.step + 1);
  replace_file(path, text);
}

}  // namespace ls::experiments
