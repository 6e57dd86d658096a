#pragma once
// How large the state of a model is, at the lengths that it was evaluated at.
#include "experiments/result.h"
#include "layers/model.h"

namespace ls::experiments {

/// Measures from real buffers the state at each length of the evaluations after update `step`, and
/// Zoology's state size at the longest.
void measure_states(layers::Model& model, Index step, RunResult& result);

/// Four bytes for each element of the layers' states after `tokens` tokens, whatever their type.
/// Convolutions inside a mixer do not count; of a layer that is nothing but a convolution, width
/// times kernel elements do.
/// @source HazyResearch/zoology, zoology/model.py and mixers/*.py (the x axis of its figures)
Index zoology_state_bytes(layers::Model& model, Index tokens);

}  // namespace ls::experiments
