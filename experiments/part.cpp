#include "experiments/part.h"

#include <algorithm>
#include <filesystem>

#include "core/config/compare.h"
#include "data/bytes/corpus.h"

namespace ls::experiments {
namespace {

constexpr const char* kAdvice =
    "a resumed run gives the numbers of an undisturbed one: restore what differs, or give this run "
    "another name";

/// The config with its other models, and with what changes no number of this one at its defaults.
RunConfig without_the_rest(const RunConfig& config, const RunModel& model) {
  RunConfig out = config;
  out.name = "part";
  out.seeds = {0};
  out.eval = {};
  if (config.state.streams()) {
    out.eval.batch = config.eval.batch;  // cuts the text into as many rows, each from a fresh state
  }
  out.checkpoint = {};
  out.models = {model};
  out.models[0].name.clear();
  return out;
}

/// The same without what the learning rates come from.
RunConfig without_rates(const RunConfig& config, const RunModel& model) {
  RunConfig out = without_the_rest(config, model);
  const RunConfig none;
  out.steps = none.steps;
  out.horizon = none.horizon;
  out.lr = none.lr;
  out.schedule = none.schedule;
  out.models[0].lr.reset();
  return out;
}

const RunModel& model_of(const RunConfig& config, const EarlierSitting& before) {
  const auto it = std::ranges::find_if(
      config.models, [&](const RunModel& m) { return layers::model_label(m) == before.model; });
  LS_CHECK(it != config.models.end(), kIo, "{}: its config has no model '{}'", before.path,
           before.model);
  return *it;
}

void check_rates(const EarlierSitting& before, const RunConfig& old, const RunModel& old_model,
                 const RunConfig& config, const RunModel& model) {
  const auto old_rates = make_schedule(old, old_model), rates = make_schedule(config, model);
  for (Index n = 0; n < before.step; ++n) {
    const double was = old_rates->lr(n), is = rates->lr(n);
    LS_CHECK(was == is, kConfig,
             "{}: update {} of {} finished ones had the learning rate {}, this config gives it {} "
             "({}); {}{}",
             before.path, n + 1, before.step, was, is,
             changes_text(
                 changed_fields(without_the_rest(old, old_model), without_the_rest(config, model))),
             kAdvice,
             old.steps != config.steps && !old.horizon
                 ? "; a schedule that decays goes on where `horizon`, set from the start, says when"
                 : "");
  }
}

}  // namespace

std::string part_hash(const RunConfig& config, const RunModel& model) {
  return config_hash(without_the_rest(config, model));
}

std::string run_identity(const RunConfig& config) {
  RunConfig out = without_the_rest(config, config.models.front());
  out.seeds = config.seeds;
  out.eval = config.eval;
  RunConfig data;  // which the hash leaves out where it lies
  data.task = config.task;
  data.models.emplace_back().init = config.models.front().init;
  return config_hash(out) + " " + dump_json(data);
}

std::unique_ptr<optim::Schedule> make_schedule(const RunConfig& config, const RunModel& model) {
  return config.schedule.make(optim::ScheduleArgs{
      .peak = model.lr.value_or(config.lr), .total_steps = config.horizon.value_or(config.steps)});
}

std::vector<data::DataIdentity> part_data(const data::Task& task, const RunModel& model) {
  std::vector<data::DataIdentity> out = task.identity();
  std::error_code error;
  if (!model.init.from.empty()) {
    const bool there = std::filesystem::exists(model.init.from, error);
    out.push_back(there ? data::ByteCorpus({.path = model.init.from}).identity()
                        : data::DataIdentity());
    out.back().field = "init.from";
  }
  return out;
}

void check_same_numbers(const EarlierSitting& before, const RunConfig& config,
                        const RunModel& model) {
  LS_CHECK(before.step <= config.steps, kConfig,
           "{}: {} updates are finished, this config has steps: {}; {}", before.path, before.step,
           config.steps, kAdvice);
  if (before.part_hash == part_hash(config, model)) {
    return;
  }
  const RunConfig old = stored_config(before.config, before.path + " (stored config)");
  const RunModel& old_model = model_of(old, before);
  const auto changes = changed_fields(without_rates(old, old_model), without_rates(config, model));
  LS_CHECK(changes.empty(), kConfig, "{}: was trained with other settings: {}; {}", before.path,
           changes_text(changes), kAdvice);
  check_rates(before, old, old_model, config, model);
}

std::vector<data::DataIdentity> check_same_data(const std::string& path,
                                                const std::vector<data::DataIdentity>& before,
                                                std::vector<data::DataIdentity> now) {
  for (data::DataIdentity& d : now) {
    const auto it = std::ranges::find(before, d.field, &data::DataIdentity::field);
    if (d.files == 0 && it != before.end()) {
      d = *it;
    }
  }
  const auto text = [](const std::vector<data::DataIdentity>& all) {
    std::string out;
    for (const data::DataIdentity& d : all) {
      out += (out.empty() ? "" : "; ") + d.str();
    }
    return out.empty() ? std::string("no files") : out;
  };
  LS_CHECK(
      before == now, kConfig,
      "{}: was trained on other data.\n  then  {}\n  now   {}\nRestore the data, or go on with "
      "--allow-changed-data",
      path, text(before), text(now));
  return now;
}

}  // namespace ls::experiments
