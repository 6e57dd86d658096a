#pragma once
// How fast a model writes, against what its weights and state take to pass through the processor.
#include "core/base/profile.h"
#include "layers/model.h"

namespace ls::experiments {

struct DecodeTiming {
  double token_seconds = 0;  ///< median over steps of one token a row, greedy choice included
  double floor_seconds =
      0;                   ///< median of reading weights and state once and writing the state once
  Index weight_bytes = 0;  ///< all parameters but an input embedding that the head does not use
  layers::StateBytes state;             ///< after the context, over all rows
  std::vector<profile::Entry> entries;  ///< of all steps, when asked for
  double seconds = 0;                   ///< of all steps
};

/// Feeds `context` random tokens to each of `rows` rows, then times `steps` tokens a row and, in
/// turns with them, the floor over buffers of the same sizes on the same threads. `by_op`: also
/// where the time of the tokens goes.
/// @throws Error(Unsupported) for a model that reads vectors
DecodeTiming time_decoding(layers::Model& model, Index rows, Index context, Index steps,
                           bool by_op = false, bool graphs = true);

}  // namespace ls::experiments
