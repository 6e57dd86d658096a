#pragma once
// Choosing the next token from logits.
#include <span>

#include "core/base/rng.h"

namespace ls::experiments {

struct SamplingOptions {
  double temperature = 1;  ///< 0: the most likely token
  Index top_k = 0;         ///< only the k most likely; 0: all
  double top_p = 1;        ///< only the fewest most likely that reach this probability together
};

/// @throws Error(Numeric) when a logit is NaN
Index sample_token(std::span<const float> logits, const SamplingOptions& options, Rng& rng);

}  // namespace ls::experiments
