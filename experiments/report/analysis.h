#pragma once
// Statistics of figures: intervals by bootstrap, Pareto fronts, capacity curves.
#include <functional>
#include <optional>
#include <utility>
#include <vector>

#include "core/base/types.h"

namespace ls::experiments {

/// Fewer seeds than this are shown as points, not as an interval.
inline constexpr std::size_t kSeedsForInterval = 5;

struct Interval {
  double low = 0, high = 0;
};

/// Numbers drawn of each group, with replacement, as many as it has.
using Draw = std::vector<std::vector<std::size_t>>;

/// The middle 95 % of a statistic when the members of each group (the seeds of a cell) are drawn
/// anew, 2000 times. The same bits each time: the draws depend on the sizes alone. nullopt where a
/// group has fewer than kSeedsForInterval members, or more than 5 % of the draws have no finite
/// value.
std::optional<Interval> bootstrap(const std::vector<std::size_t>& sizes,
                                  const std::function<double(const Draw&)>& statistic);
/// Of a mean.
std::optional<Interval> bootstrap_mean(const std::vector<double>& values);

/// Numbers of the points (cost, value) that no other beats: none costs less or the same and has a
/// higher value, none costs less and has the same. By cost.
std::vector<std::size_t> pareto_front(const std::vector<std::pair<double, double>>& points);

/// y = 1 / (1 + exp(-slope (x - middle))), x a logarithm to the base 2.
struct LogisticFit {
  double middle = 0, slope = 0;
  double at(double x) const;
  /// The x where y is reached, 0 < y < 1.
  double reaches(double y) const;
};
/// By least squares; nullopt of fewer than 3 different x, and where the middle would lie more than
/// two octaves outside of what was measured.
std::optional<LogisticFit> fit_logistic(const std::vector<std::pair<double, double>>& points);

/// y = at_zero + slope x by least squares; nullopt of fewer than 2 different x.
struct LineFit {
  double at_zero = 0, slope = 0;
};
std::optional<LineFit> fit_line(const std::vector<std::pair<double, double>>& points);

}  // namespace ls::experiments
