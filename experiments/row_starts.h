#pragma once
// Which states the rows of an update start from, and the noise in them: functions of the seed, the
// number of the update and that of the row in the whole batch, and of nothing else.
#include <span>
#include <string>
#include <vector>

#include "core/base/types.h"
#include "experiments/state_config.h"

namespace ls::experiments {

/// Modes in the order in which a draw goes through their probabilities.
enum class Start : std::uint8_t { kZero, kGaussian, kFitted, kPassed, kTbptt, kLearned };

struct RowStart {
  Start mode = Start::kZero;
  Index source = -1;  ///< row of the update before whose last states it takes; -1: none
};

/// Of all rows of an update. `before`: rows of the update before it, 0 where there is none. Passed
/// states go round one cycle through all rows in a random order, so that no row gets its own.
std::vector<RowStart> row_starts(const StateConfig& config, std::uint64_t seed, Index step,
                                 Index rows, Index before);

/// Standard normal numbers for one slot of one row.
void draw_noise(std::uint64_t seed, const std::string& slot, Index step, Index row,
                std::span<double> out);

}  // namespace ls::experiments
