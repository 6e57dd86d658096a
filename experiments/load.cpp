#include "experiments/load.h"

#include <algorithm>

#include "core/base/log.h"
#include "core/config/compare.h"
#include "core/tensor/devices.h"
#include "experiments/checkpoint.h"
#include "experiments/model_io.h"
#include "experiments/run.h"

namespace ls::experiments {
namespace {

std::string interface_text(const layers::ModelInterface& io) {
  const std::string in = io.vocab_in > 0 ? fmt::format("{} tokens", io.vocab_in)
                                         : fmt::format("vectors of {}", io.vector_width);
  return fmt::format("{} in, {} classes out", in, io.classes);
}

/// Whether one of the overrides "a.b=c" sets this field or the map that holds it.
bool is_set(const std::string& field, const std::vector<std::string>& overrides) {
  return std::ranges::any_of(overrides, [&](const std::string& text) {
    const std::string path = text.substr(0, text.find('='));
    return field == path || field.starts_with(path + ".");
  });
}

}  // namespace

LoadedModel load_model(const std::string& path, const std::vector<std::string>& overrides) {
  const LoadedCheckpoint c = load_checkpoint(path);
  const std::string stored = path + " (stored config)";
  RunConfig trained = stored_config(c.data.config, stored);
  make_paths_absolute(trained, c.data.directory);
  trained.mesh = {};  // of the ranks of that run
  LoadedModel out;
  out.config = read_config_text<RunConfig>(dump_yaml(trained), stored, overrides);
  const std::vector<std::string> labels = model_labels(out.config);
  const auto it = std::find(labels.begin(), labels.end(), c.data.model);
  LS_CHECK(it != labels.end(), kIo, "{}: its config has no model '{}'", path, c.data.model);
  out.seed = c.data.seed;
  out.step = c.data.step;
  out.path = path;
  out.data = c.data.data;
  out.overrides = overrides;
  const auto index = static_cast<std::size_t>(it - labels.begin());
  out.model = make_model(out.config, out.config.models[index], c.data.interface, out.seed);
  restore_parameters(c.parameters, path, out.model->parameters());
  out.model->parameters().to(device_of(out.config));
  return out;
}

std::unique_ptr<data::Task> load_task(const LoadedModel& loaded) {
  const ErrorContext context("making the data of " + loaded.path +
                             "; --set task.FIELD=VALUE names other files");
  std::unique_ptr<data::Task> task = data::make_task(
      loaded.config.task,
      {.seed = loaded.seed, .stream = loaded.config.state.streams(), .training = false});
  const layers::ModelInterface wanted = model_interface(*task), has = loaded.model->interface();
  LS_CHECK(interface_text(wanted) == interface_text(has) &&
               wanted.class_embeddings.defined() == has.class_embeddings.defined(),
           kConfig, "{}: its model has {}, the task asks for {}", loaded.path, interface_text(has),
           interface_text(wanted));
  for (const data::DataIdentity& now : task->identity()) {
    const auto then = std::ranges::find(loaded.data, now.field, &data::DataIdentity::field);
    if (then != loaded.data.end() && *then != now && !is_set(now.field, loaded.overrides)) {
      log_warn(
          "the data have changed since the model was trained: what was held out may not be "
          "what is held out now",
          {{"then", then->str()}, {"now", now.str()}});
    }
  }
  return task;
}

}  // namespace ls::experiments
