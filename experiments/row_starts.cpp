#include "experiments/row_starts.h"

#include <array>

#include "core/base/rng.h"
#include "experiments/run_config.h"

namespace ls::experiments {

std::vector<RowStart> row_starts(const StateConfig& config, std::uint64_t seed, Index step,
                                 Index rows, Index before) {
  const std::array<double, 6> shares = {config.zero_share(), config.gaussian, config.fitted,
                                        config.passed,       config.tbptt,    config.learned};
  Rng draws(seed, "state/mode", static_cast<std::uint64_t>(step));
  std::vector<RowStart> out(static_cast<std::size_t>(rows));
  for (RowStart& row : out) {
    double left = draws.uniform();
    for (std::size_t m = 0; m < shares.size(); ++m) {
      if (shares[m] > 0) {
        row.mode = static_cast<Start>(m);  // the last one with a share takes what rounding leaves
        if ((left -= shares[m]) < 0) {
          break;
        }
      }
    }
  }
  std::vector<Index> passed(static_cast<std::size_t>(before), -1);
  if (config.passed > 0 && before > 1) {
    const Permutation order(before, seed, stream_id("state/passed"),
                            static_cast<std::uint64_t>(step));
    for (Index i = 0; i < before; ++i) {
      passed[static_cast<std::size_t>(order(i))] = order((i + 1) % before);
    }
  }
  for (Index r = 0; before > 0 && r < rows; ++r) {
    RowStart& row = out[static_cast<std::size_t>(r)];
    if (row.mode == Start::kPassed) {
      row.source = passed[static_cast<std::size_t>(r % before)];
    } else if (row.mode == Start::kTbptt && r < before) {
      row.source = r;
    }
  }
  return out;
}

void draw_noise(std::uint64_t seed, const std::string& slot, Index step, Index row,
                std::span<double> out) {
  constexpr auto kRows = static_cast<std::uint64_t>(kMaxBatch);
  Rng(seed, "state/noise/" + slot,
      static_cast<std::uint64_t>(step) * kRows + static_cast<std::uint64_t>(row))
      .normal(out);
}

}  // namespace ls::experiments
