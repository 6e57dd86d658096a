#include "experiments/sweep/choice.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <set>
#include <tuple>

#include "experiments/evaluate.h"

namespace ls::experiments {
namespace {

/// Larger is better.
struct Score {
  double metric = 0, loss = 0;
  bool operator>(const Score& other) const {
    return std::tie(metric, loss) > std::tie(other.metric, other.loss);
  }
};

/// The last validation of a finished run.
const Evaluation* last_validation(const RunResult& result) {
  const auto at = std::find_if(result.history.rbegin(), result.history.rend(), [&](const auto& e) {
    return e.split == data::Split::kValid && e.step == result.steps;
  });
  return at == result.history.rend() ? nullptr : &*at;
}

/// What the last validations of all runs that have finished have in common.
std::set<std::string> common_slices(const SweepCell& cell, const SweepFolder& folder) {
  std::optional<std::set<std::string>> common;
  for (const std::vector<SweepRun>& runs : cell.choice) {
    for (const SweepRun& run : runs) {
      const EndedRun* ended = folder.ended(run);
      const Evaluation* e =
          ended != nullptr && ended->result ? last_validation(*ended->result) : nullptr;
      if (e != nullptr) {
        std::set<std::string> names = slices_run(*e);
        if (common) {
          std::erase_if(names, [&](const std::string& name) { return !common->contains(name); });
        }
        common = std::move(names);
      }
    }
  }
  return common.value_or(std::set<std::string>());
}

/// Sum over the choice seeds, nullopt where one of them did not finish or is no number.
std::optional<Score> score_of(const std::vector<SweepRun>& runs, const SweepFolder& folder,
                              const std::set<std::string>& slices) {
  Score sum;
  for (const SweepRun& run : runs) {
    const EndedRun* ended = folder.ended(run);
    const Evaluation* e =
        ended != nullptr && ended->result ? last_validation(*ended->result) : nullptr;
    if (e == nullptr) {
      return std::nullopt;
    }
    const std::string& metric = ended->result->metrics.front();
    const double value = mean_metric(*e, metric, slices);
    sum.metric += is_better(metric, 0, 1) ? -value : value;
    sum.loss -= mean_metric(*e, "loss", slices);
  }
  if (std::isnan(sum.metric)) {
    return std::nullopt;  // as good as failed
  }
  sum.loss = std::isnan(sum.loss) ? -std::numeric_limits<double>::infinity() : sum.loss;
  return sum;
}

}  // namespace

RateChoice choose_rate(const SweepPlan& plan, const SweepCell& cell, const SweepFolder& folder) {
  RateChoice choice{.known = true};
  if (!plan.chooses()) {
    choice.rate = 0;
    return choice;
  }
  const auto& values = plan.rate_values;
  const std::set<std::string> slices = common_slices(cell, folder);
  std::optional<Score> best;
  for (std::size_t r = 0; r < cell.choice.size(); ++r) {
    choice.known &= std::ranges::all_of(
        cell.choice[r], [&](const SweepRun& run) { return folder.ended(run) != nullptr; });
    const std::optional<Score> score = score_of(cell.choice[r], folder, slices);
    const bool lower =
        choice.rate >= 0 && values[r] < values[static_cast<std::size_t>(choice.rate)];
    if (score && (!best || *score > *best || (!(*best > *score) && lower))) {
      best = score;
      choice.rate = static_cast<Index>(r);
    }
  }
  if (choice.rate >= 0) {
    const double chosen = values[static_cast<std::size_t>(choice.rate)];
    choice.edge = chosen == std::ranges::min(values) || chosen == std::ranges::max(values);
  }
  return choice;
}

OpenRuns open_runs(const SweepPlan& plan, const SweepFolder& folder) {
  OpenRuns open;
  std::set<std::string> listed;
  const auto add = [&](const std::vector<SweepRun>& runs) {
    for (const SweepRun& run : runs) {
      if (folder.ended(run) == nullptr && listed.insert(run.identity).second) {
        open.runs.push_back(&run);
      }
    }
  };
  for (const SweepCell& cell : plan.cells) {
    if (plan.chooses()) {
      for (const std::vector<SweepRun>& runs : cell.choice) {
        add(runs);
      }
    }
    const RateChoice choice = choose_rate(plan, cell, folder);
    if (!choice.known) {
      open.later += std::ssize(cell.report.front());
    } else if (choice.rate >= 0) {
      add(cell.report[static_cast<std::size_t>(choice.rate)]);
    }
  }
  return open;
}

}  // namespace ls::experiments
