#pragma once
// Where the batches of a task meet the model.
#include "data/batcher.h"
#include "experiments/run_config.h"

namespace ls::experiments {

/// What a task asks of a model.
layers::ModelInterface model_interface(const data::Task& task);
/// Tokens or vectors of a batch, where the model is.
layers::ModelInput model_input(const data::Batch& batch, Device& device);
/// How a config asks for scans to be computed, with the documents of a batch, which must outlive
/// the options.
layers::SeqOptions sequence_options(const ScanConfig& scan, const data::Batch& batch = {});

}  // namespace ls::experiments
