#include "experiments/model_io.h"

namespace ls::experiments {

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
          .documents = batch.documents.empty() ? nullptr : &batch.documents};
}

}  // namespace ls::experiments
