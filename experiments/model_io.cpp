#include "experiments/model_io.h"

#include <algorithm>

#include "experiments/checkpoint.h"
#include "layers/shapes_only.h"

namespace ls::experiments {

std::unique_ptr<layers::Model> make_model(const RunConfig& config, const layers::ModelConfig& model,
                                          const layers::ModelInterface& io, std::uint64_t seed) {
  auto out = std::make_unique<layers::Model>(model, io, seed);
  if (config.state.learned > 0) {
    out->learn_first_states();
  }
  return out;
}

Index count_parameters(const layers::ModelConfig& model, const layers::ModelInterface& io,
                       bool learned_states) {
  const layers::ShapesOnly shapes;
  layers::Model out(model, io, 0);
  if (learned_states) {
    out.learn_first_states();
  }
  return out.parameters().count();
}

void begin_from(const std::string& checkpoint, layers::Model& model) {
  std::vector<std::pair<std::string, Tensor>> values = load_parameters(checkpoint);
  for (const ag::Parameter& p : model.parameters().items()) {
    const bool there =
        std::ranges::any_of(values, [&](const auto& v) { return v.first == p.name; });
    if (!there && p.name.starts_with("first_states.")) {
      values.emplace_back(p.name, p.var.value().to(cpu()));
    }
  }
  restore_parameters(values, checkpoint, model.parameters());
}

layers::ModelInterface model_interface(const data::Task& task) {
  const data::TaskInfo& info = task.info();
  return {info.vocab_in, info.vector_width, info.classes, info.class_embeddings};
}

layers::ModelInput model_input(const data::Batch& batch, Device& device) {
  const auto there = [&](const Tensor& t) { return t.defined() ? t.to(device) : t; };
  return {there(batch.tokens), there(batch.vectors)};
}

layers::SeqOptions sequence_options(const ScanConfig& scan, const data::Batch& batch) {
  return {.form = scan.form,
          .chunk = scan.chunk,
          .documents = batch.documents.empty() ? nullptr : &batch.documents,
          .length = batch.length};
}

}  // namespace ls::experiments
