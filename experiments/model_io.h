#pragma once
// Where the batches of a task meet the model.
#include <memory>

#include "data/batcher.h"
#include "experiments/run_config.h"

namespace ls::experiments {

/// The model of a run, with what `state` adds to it.
std::unique_ptr<layers::Model> make_model(const RunConfig& config, const layers::ModelConfig& model,
                                          const layers::ModelInterface& io, std::uint64_t seed);
/// Of such a model, made without memory for them. Where states are learned too, a token is run with
/// one weight at a time in memory.
Index count_parameters(const layers::ModelConfig& model, const layers::ModelInterface& io,
                       bool learned_states);
/// Its first weights, of a checkpoint of another run; learned states that it lacks are zeros.
/// @throws as load_parameters, restore_parameters
void begin_from(const std::string& checkpoint, layers::Model& model);
/// What a task asks of a model.
layers::ModelInterface model_interface(const data::Task& task);
/// Tokens or vectors of a batch, where the model is.
layers::ModelInput model_input(const data::Batch& batch, Device& device);
/// How a config asks for scans to be computed, with the documents of a batch, which must outlive
/// the options.
layers::SeqOptions sequence_options(const ScanConfig& scan, const data::Batch& batch = {});

}  // namespace ls::experiments
