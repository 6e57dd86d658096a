#include "experiments/report/analysis.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "core/base/rng.h"
#include "experiments/sample.h"

namespace ls::experiments {
namespace {

constexpr std::size_t kDraws = 2000;
constexpr double kOutside = 2;  // octaves

double squares(const LogisticFit& fit, const std::vector<std::pair<double, double>>& points) {
  double sum = 0;
  for (const auto& [x, y] : points) {
    const double e = fit.at(x) - y;
    sum += e * e;
  }
  return sum;
}

/// The best of a grid around `from`, whose cells have the given sizes.
LogisticFit best_around(const LogisticFit& from, int reach, double middle_step, double slope_factor,
                        const std::vector<std::pair<double, double>>& points) {
  LogisticFit best = from;
  double least = squares(best, points);
  for (int m = -reach; m <= reach; ++m) {
    for (int s = -reach; s <= reach; ++s) {
      const LogisticFit tried{from.middle + m * middle_step,
                              from.slope * std::pow(slope_factor, s)};
      const double error = squares(tried, points);
      if (error < least) {
        least = error;
        best = tried;
      }
    }
  }
  return best;
}

std::size_t different_x(const std::vector<std::pair<double, double>>& points) {
  std::set<double> x;
  for (const auto& point : points) {
    x.insert(point.first);
  }
  return x.size();
}

}  // namespace

std::optional<Interval> bootstrap(const std::vector<std::size_t>& sizes,
                                  const std::function<double(const Draw&)>& statistic) {
  if (sizes.empty() || std::ranges::min(sizes) < kSeedsForInterval) {
    return std::nullopt;
  }
  std::vector<double> values;
  Draw draw(sizes.size());
  for (std::size_t n = 0; n < kDraws; ++n) {
    Rng rng(0, "bootstrap", n);
    for (std::size_t g = 0; g < sizes.size(); ++g) {
      draw[g].resize(sizes[g]);
      for (std::size_t& i : draw[g]) {
        i = static_cast<std::size_t>(rng.below(static_cast<Index>(sizes[g])));
      }
    }
    const double value = statistic(draw);
    if (std::isfinite(value)) {
      values.push_back(value);
    }
  }
  if (values.size() * 20 < kDraws * 19) {
    return std::nullopt;
  }
  std::ranges::sort(values);
  const auto at = [&](double share) {
    return values[static_cast<std::size_t>(
        std::lround(share * static_cast<double>(values.size() - 1)))];
  };
  return Interval{at(0.025), at(0.975)};
}

std::optional<Interval> bootstrap_mean(const std::vector<double>& values) {
  return bootstrap({values.size()}, [&](const Draw& draw) {
    double sum = 0;
    for (const std::size_t i : draw.front()) {
      sum += values[i];
    }
    return sum / static_cast<double>(values.size());
  });
}

std::vector<std::size_t> pareto_front(const std::vector<std::pair<double, double>>& points) {
  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order, [&](std::size_t a, std::size_t b) {
    return points[a].first != points[b].first ? points[a].first < points[b].first
                                              : points[a].second > points[b].second;
  });
  std::vector<std::size_t> front;
  for (const std::size_t i : order) {
    const bool number = std::isfinite(points[i].first) && std::isfinite(points[i].second);
    if (number && (front.empty() || points[i].second > points[front.back()].second)) {
      front.push_back(i);
    }
  }
  return front;
}

double LogisticFit::at(double x) const {
  return 1 / (1 + std::exp(-slope * (x - middle)));
}

double LogisticFit::reaches(double y) const {
  return middle + std::log(y / (1 - y)) / slope;
}

std::optional<LogisticFit> fit_logistic(const std::vector<std::pair<double, double>>& points) {
  if (different_x(points) < 3) {
    return std::nullopt;
  }
  const auto [least, most] = std::ranges::minmax_element(points);
  const double low = least->first, high = most->first;
  const std::optional<LineFit> trend = fit_line(points);
  // The error has one deep valley, and two numbers are looked for: grids that grow finer find it.
  constexpr int kFirst = 8, kRounds = 40;
  double step = (high - low + 2 * kOutside) / (2 * kFirst), factor = 1.6;
  LogisticFit fit{(low + high) / 2, trend && trend->slope < 0 ? -1.5 : 1.5};
  fit = best_around(fit, kFirst, step, factor, points);
  for (int round = 0; round < kRounds; ++round) {
    fit = best_around(fit, 1, step, factor, points);
    step *= 0.75;
    factor = 1 + (factor - 1) * 0.75;
  }
  const bool inside = fit.middle >= low - kOutside && fit.middle <= high + kOutside;
  return inside && std::isfinite(squares(fit, points)) ? std::optional(fit) : std::nullopt;
}

std::optional<LineFit> fit_line(const std::vector<std::pair<double, double>>& points) {
  if (different_x(points) < 2) {
    return std::nullopt;
  }
  const auto n = static_cast<double>(points.size());
  double mx = 0, my = 0, xx = 0, xy = 0;
  for (const auto& [x, y] : points) {
    mx += x / n;
    my += y / n;
  }
  for (const auto& [x, y] : points) {
    xx += (x - mx) * (x - mx);
    xy += (x - mx) * (y - my);
  }
  return LineFit{my - xy / xx * mx, xy / xx};
}

}  // namespace ls::experiments
