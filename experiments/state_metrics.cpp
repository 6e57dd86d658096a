#include "experiments/state_metrics.h"

#define EIGEN_DONT_VECTORIZE  // GCC warns of its code for AVX-512; the matrices are small
#include <Eigen/SVD>
#include <algorithm>
#include <cmath>
#include <limits>

#include "core/base/error.h"

namespace ls::experiments {
namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The inverse of the normal distribution function, by bisection of erfc.
double normal_quantile(double p) {
  double low = -40, high = 40;
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

}  // namespace

double effective_rank(std::span<const double> matrix, Index rows, Index columns) {
  LS_CHECK(std::ssize(matrix) == rows * columns, kInternal, "{} elements of a [{}, {}] matrix",
           matrix.size(), rows, columns);
  if (matrix.empty()) {
    return 0;
  }
  if (!std::ranges::all_of(matrix, [](double v) { return std::isfinite(v); })) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const Eigen::BDCSVD<Matrix> svd(Eigen::Map<const Matrix>(matrix.data(), rows, columns));
  const auto& values = svd.singularValues();
  const double sum = values.sum();
  if (sum == 0) {
    return 0;
  }
  double entropy = 0;
  for (Eigen::Index i = 0; i < values.size(); ++i) {
    const double p = values[i] / sum;
    entropy -= p > 0 ? p * std::log(p) : 0;
  }
  return std::exp(entropy);
}

double total_variation(std::span<const double> p, std::span<const double> q) {
  LS_CHECK(p.size() == q.size(), kInternal, "distributions over {} and {}", p.size(), q.size());
  double sum = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    sum += std::abs(p[i] - q[i]);
  }
  return sum / 2;
}

std::vector<double> softmax(std::span<const double> scores) {
  std::vector<double> out(scores.begin(), scores.end());
  const double top = out.empty() ? 0 : *std::ranges::max_element(out);
  double sum = 0;
  for (double& v : out) {
    v = std::exp(v - top);
    sum += v;
  }
  for (double& v : out) {
    v /= sum;
  }
  return out;
}

ClassSpread::ClassSpread(Index classes, Index width)
    : classes_(classes),
      width_(width),
      count_(static_cast<std::size_t>(classes)),
      sum_(static_cast<std::size_t>(classes * width)),
      outer_(static_cast<std::size_t>(width * width)) {}

void ClassSpread::add(Index label, std::span<const double> x) {
  count_.at(static_cast<std::size_t>(label)) += 1;
  double* const sum = sum_.data() + label * width_;
  for (Index i = 0; i < width_; ++i) {
    const double xi = x[static_cast<std::size_t>(i)];
    sum[i] += xi;
    for (Index j = i; j < width_; ++j) {
      outer_[static_cast<std::size_t>(i * width_ + j)] += xi * x[static_cast<std::size_t>(j)];
    }
  }
}

ClassSpread::Spread ClassSpread::spread() const {
  const Index n = std::ranges::count_if(count_, [](Index count) { return count >= 2; });
  if (n < 2) {
    constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
    return {kNone, kNone, n};
  }
  Matrix means(n, width_), within = Eigen::Map<const Matrix>(outer_.data(), width_, width_);
  double vectors = 0, each = 0;
  Index row = 0;
  // The one vector of a class is its mean and leaves nothing.
  for (Index c = 0; c < classes_; ++c) {
    const auto count = static_cast<double>(count_[static_cast<std::size_t>(c)]);
    if (count == 0) {
      continue;
    }
    const Eigen::RowVectorXd mean =
        Eigen::Map<const Eigen::RowVectorXd>(sum_.data() + c * width_, width_) / count;
    within.triangularView<Eigen::Upper>() -= count * mean.transpose() * mean;
    if (count >= 2) {
      means.row(row++) = mean;
      vectors += count;
      each += 1 / count;
    }
  }
  const Matrix whole = within.selfadjointView<Eigen::Upper>();
  const Eigen::RowVectorXd middle = means.colwise().mean();
  const Matrix apart = means.rowwise() - middle;
  // The right singular vectors of what is not rounding span the differences of the means.
  const Eigen::BDCSVD<Matrix> svd(apart, Eigen::ComputeThinV);
  const auto& values = svd.singularValues();
  double in_span = 0;
  for (Eigen::Index i = 0; i < values.size(); ++i) {
    if (values[i] > 1e-9 * values[0]) {
      const Eigen::VectorXd v = svd.matrixV().col(i);
      in_span += v.dot(whole * v);
    }
  }
  // Means of vectors that are spread lie apart by chance too: by 1/count of the spread, less what
  // their own mean takes away.
  const auto means_of = static_cast<double>(n);
  const double variance = std::max(0.0, in_span) / (vectors - means_of);
  const double chance = variance * (1 - 1 / means_of) * each / means_of;
  return {std::sqrt(variance), std::sqrt(std::max(0.0, apart.squaredNorm() / means_of - chance)),
          n};
}

double readable_ratio(Index classes, double accuracy) {
  LS_CHECK(classes >= 2 && accuracy > 0 && accuracy < 1, kInternal, "{} classes, accuracy {}",
           classes, accuracy);
  const auto n = static_cast<double>(classes);
  const double z = normal_quantile(1 - (1 - accuracy) / (n - 1));
  return z > 0 ? std::sqrt(n / 2) / z : std::numeric_limits<double>::infinity();
}

double crossing(std::span<const double> x, std::span<const double> y, double level) {
  double n = 0, sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x[i] > 0 && y[i] > 0 && std::isfinite(y[i])) {
      const double a = std::log(x[i]), b = std::log(y[i]);
      n += 1;
      sx += a;
      sy += b;
      sxx += a * a;
      sxy += a * b;
    }
  }
  const double spread = n * sxx - sx * sx;
  if (n < 2 || !(spread > 0)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  const double slope = (n * sxy - sx * sy) / spread, start = (sy - slope * sx) / n;
  constexpr double kFlat = 1e-9;
  return slope > kFlat ? std::exp((std::log(level) - start) / slope)
                       : std::numeric_limits<double>::infinity();
}

}  // namespace ls::experiments
