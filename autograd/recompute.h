#pragma once
// Recomputation: a block keeps its inputs only and runs again in the backward pass.
#include <functional>
#include <vector>

#include "autograd/var.h"

namespace ls::ag {

using Block = std::function<std::vector<Var>(const std::vector<Var>&)>;

/// block(inputs) as one node; undefined inputs and outputs are allowed. The block must give the
/// same outputs when it runs again; parameters (leaves) that it reads get their gradients as usual,
/// other recorded values must be among `inputs`. Side effects happen twice. Without a tape, or
/// without gradients, just block(inputs).
/// @throws Error(Internal) in the backward pass when the block reads a recorded value of its own
std::vector<Var> recompute(const Block& block, const std::vector<Var>& inputs);

}  // namespace ls::ag
