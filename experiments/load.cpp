#include "experiments/load.h"

#include <algorithm>

#include "experiments/checkpoint.h"
#include "experiments/model_io.h"
#include "experiments/run.h"

namespace ls::experiments {

LoadedModel load_model(const std::string& path, const std::vector<std::string>& overrides) {
  const LoadedCheckpoint c = load_checkpoint(path);
  LoadedModel out;
  out.config = read_config_text<RunConfig>(c.data.config, path + " (stored config)", overrides);
  const std::vector<std::string> labels = model_labels(out.config);
  const auto it = std::find(labels.begin(), labels.end(), c.data.model);
  LS_CHECK(it != labels.end(), kIo, "{}: its config has no model '{}'", path, c.data.model);
  out.seed = c.data.seed;
  out.step = c.data.step;
  out.task = data::make_task(out.config.task, {.seed = out.seed, .stream = false});
  const auto index = static_cast<std::size_t>(it - labels.begin());
  out.model = std::make_unique<layers::Model>(out.config.models[index], model_interface(*out.task),
                                              out.seed);
  restore_parameters(c, path, out.model->parameters());
  return out;
}

}  // namespace ls::experiments
