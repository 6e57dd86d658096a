// Numbers about states against their definitions.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <random>
#include <tuple>

#include "experiments/state_metrics.h"

namespace ls::experiments {
namespace {

/// A rotation of n axes by many planes.
std::vector<double> rotation(Index n, unsigned seed) {
  std::mt19937_64 bits(seed);
  std::uniform_real_distribution<double> angle(0, 2 * std::numbers::pi);
  std::vector<double> q(static_cast<std::size_t>(n * n));
  for (Index i = 0; i < n; ++i) {
    q[static_cast<std::size_t>(i * n + i)] = 1;
  }
  for (Index i = 0; i < n; ++i) {
    for (Index j = i + 1; j < n; ++j) {
      const double a = angle(bits), c = std::cos(a), s = std::sin(a);
      for (Index k = 0; k < n; ++k) {
        double& x = q[static_cast<std::size_t>(i * n + k)];
        double& y = q[static_cast<std::size_t>(j * n + k)];
        const double turned = c * x - s * y;
        y = s * x + c * y;
        x = turned;
      }
    }
  }
  return q;
}

/// U diag(values) V of [rows, columns].
std::vector<double> matrix_of(const std::vector<double>& values, Index rows, Index columns) {
  const auto u = rotation(rows, 1), v = rotation(columns, 2);
  std::vector<double> out(static_cast<std::size_t>(rows * columns));
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < columns; ++j) {
      for (std::size_t k = 0; k < values.size(); ++k) {
        out[static_cast<std::size_t>(i * columns + j)] +=
            u[static_cast<std::size_t>(i * rows) + k] * values[k] *
            v[k * static_cast<std::size_t>(columns) + static_cast<std::size_t>(j)];
      }
    }
  }
  return out;
}

double rank_of(const std::vector<double>& values) {
  double sum = 0, entropy = 0;
  for (const double v : values) {
    sum += v;
  }
  for (const double v : values) {
    entropy -= v > 0 ? v / sum * std::log(v / sum) : 0;
  }
  return std::exp(entropy);
}

/// Vectors with their labels.
struct Labelled {
  std::vector<std::vector<double>> x;
  std::vector<Index> label;
};

ClassSpread::Spread spread_of(const Labelled& all, Index classes) {
  ClassSpread spread(classes, std::ssize(all.x[0]));
  for (std::size_t i = 0; i < all.x.size(); ++i) {
    spread.add(all.label[i], all.x[i]);
  }
  return spread.spread();
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += a[i] * b[i];
  }
  return sum;
}
std::vector<double> minus(std::vector<double> a, const std::vector<double>& b, double times = 1) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    a[i] -= times * b[i];
  }
  return a;
}

/// By the definition: means, an orthonormal basis of their differences, distances.
ClassSpread::Spread spread_by_definition(const Labelled& all, Index classes) {
  const std::size_t width = all.x[0].size();
  std::vector<std::vector<double>> mean(static_cast<std::size_t>(classes),
                                        std::vector<double>(width));
  std::vector<double> count(mean.size());
  for (std::size_t i = 0; i < all.x.size(); ++i) {
    const auto c = static_cast<std::size_t>(all.label[i]);
    count[c] += 1;
    mean[c] = minus(mean[c], all.x[i], -1);
  }
  std::vector<double> middle(width);
  for (std::size_t c = 0; c < mean.size(); ++c) {
    for (double& v : mean[c]) {
      v /= count[c];
    }
    middle = minus(middle, mean[c], -1 / static_cast<double>(classes));
  }
  std::vector<std::vector<double>> basis;
  for (std::size_t c = 1; c < mean.size(); ++c) {
    std::vector<double> d = minus(mean[c], mean[0]);
    for (const auto& b : basis) {
      d = minus(d, b, dot(d, b));
    }
    const double norm = std::sqrt(dot(d, d));
    if (norm > 1e-9) {
      for (double& v : d) {
        v /= norm;
      }
      basis.push_back(d);
    }
  }
  ClassSpread::Spread out{.classes = classes};
  for (std::size_t i = 0; i < all.x.size(); ++i) {
    const auto d = minus(all.x[i], mean[static_cast<std::size_t>(all.label[i])]);
    for (const auto& b : basis) {
      out.within += dot(d, b) * dot(d, b) /
                    (static_cast<double>(all.x.size()) - static_cast<double>(classes));
    }
  }
  for (const auto& m : mean) {
    const auto d = minus(m, middle);
    out.between += dot(d, d) / static_cast<double>(classes);
  }
  // What the means of so many vectors differ by chance.
  const auto n = static_cast<double>(classes);
  for (const double c : count) {
    out.between -= out.within / c * (1 - 1 / n) / n;
  }
  out.within = std::sqrt(out.within);
  out.between = std::sqrt(out.between);
  return out;
}

TEST_SUITE("experiments") {
  TEST_CASE("effective rank: matrices of known singular values") {
    for (const auto& [values, rows, columns] :
         {std::tuple(std::vector<double>{1, 1, 1, 1}, Index{4}, Index{4}),
          std::tuple(std::vector<double>{3, 0, 0}, Index{3}, Index{5}),
          std::tuple(std::vector<double>{5, 2, 1e-3}, Index{7}, Index{3}),
          std::tuple(std::vector<double>{1e8, 1e-8}, Index{2}, Index{2}),
          std::tuple(std::vector<double>(40, 0.25), Index{64}, Index{40})}) {
      const double got = effective_rank(matrix_of(values, rows, columns), rows, columns);
      CHECK(got == doctest::Approx(rank_of(values)).epsilon(1e-9));
    }
    const std::vector<double> zeros(6), endless = {1, NAN, 2, 3};
    CHECK(effective_rank(zeros, 2, 3) == 0);
    CHECK(std::isnan(effective_rank(endless, 2, 2)));
    CHECK(effective_rank({}, 0, 3) == 0);
  }

  TEST_CASE("total variation and softmax") {
    const std::vector<double> p = {0.5, 0.5, 0}, q = {0, 0.25, 0.75};
    CHECK(total_variation(p, q) == doctest::Approx(0.75).epsilon(1e-15));
    CHECK(total_variation(p, p) == 0);
    const std::vector<double> large = {1000, 1000 + std::log(3.0)};
    CHECK(softmax(large)[1] == doctest::Approx(0.75).epsilon(1e-12));
  }

  TEST_CASE("spread of classes: sums give what the definition gives") {
    std::mt19937_64 bits(3);
    std::normal_distribution<double> normal;
    for (const Index classes : {2, 3, 5}) {
      for (const std::size_t width : {std::size_t{2}, std::size_t{9}}) {
        Labelled all;
        for (Index i = 0; i < 60; ++i) {
          const Index label = i % classes;
          std::vector<double> x(width);
          for (std::size_t d = 0; d < width; ++d) {
            x[d] = 3 + normal(bits) + (d == static_cast<std::size_t>(label) % width ? 2.0 : 0.0);
          }
          all.x.push_back(x);
          all.label.push_back(label);
        }
        const auto got = spread_of(all, classes), want = spread_by_definition(all, classes);
        CHECK(got.classes == classes);
        CHECK(got.within == doctest::Approx(want.within).epsilon(1e-9));
        CHECK(got.between == doctest::Approx(want.between).epsilon(1e-9));
      }
    }
    // What no class differs in does not count.
    Labelled flat;
    for (Index i = 0; i < 20; ++i) {
      const double shared = 100 * normal(bits);
      flat.x.push_back({-1, shared});
      flat.x.push_back({1, shared});
      flat.label.insert(flat.label.end(), {0, 1});
    }
    CHECK(spread_of(flat, 2).within == doctest::Approx(0).epsilon(1e-6));
    // Classes with one vector, or none, are left out.
    Labelled few{{{0, 1}, {0, 3}, {4, 1}, {4, 3}, {9, 9}}, {0, 0, 1, 1, 2}};
    const auto spread = spread_of(few, 7);
    CHECK(spread.classes == 2);
    CHECK(spread.within == doctest::Approx(0).epsilon(1e-9));
    CHECK(spread.between == doctest::Approx(2).epsilon(1e-12));
    CHECK(std::isnan(spread_of({{{1.0}}, {0}}, 1).within));
  }

  TEST_CASE("spread of classes: squares are those of many vectors, on average over few") {
    // Three classes at the corners of a triangle, deviation .8 in both directions of its plane.
    std::mt19937_64 bits(9);
    std::normal_distribution<double> normal(0, 0.8);
    double within = 0, between = 0;
    constexpr int kDraws = 4000;
    for (int i = 0; i < kDraws; ++i) {
      ClassSpread spread(3, 3);
      for (Index v = 0; v < 9; ++v) {
        std::vector<double> x = {normal(bits), normal(bits), 0};
        x[0] += std::cos(2.0944 * static_cast<double>(v % 3)) * 2;
        x[1] += std::sin(2.0944 * static_cast<double>(v % 3)) * 2;
        spread.add(v % 3, x);
      }
      const auto s = spread.spread();
      within += s.within * s.within / kDraws;
      between += s.between * s.between / kDraws;
    }
    CHECK(within == doctest::Approx(2 * 0.64).epsilon(0.03));
    CHECK(between == doctest::Approx(4).epsilon(0.03));
  }

  TEST_CASE("readable ratio: there the nearest mean is right as often as it says") {
    CHECK(readable_ratio(2, 0.841344746068543) == doctest::Approx(1).epsilon(1e-9));  // Phi(1)
    std::mt19937_64 bits(7);
    std::normal_distribution<double> normal;
    for (const Index classes : {2, 3, 8}) {
      // Corners of a simplex: the axes, whose mean they lie sqrt(1 - 1/C) from.
      const double between = std::sqrt(1 - 1 / static_cast<double>(classes));
      const double within = readable_ratio(classes, 0.9) * between;
      const double each = within / std::sqrt(static_cast<double>(classes - 1));
      int right = 0;
      constexpr int kDraws = 40000;
      for (int i = 0; i < kDraws; ++i) {
        std::vector<double> x(static_cast<std::size_t>(classes));
        for (double& v : x) {
          v = each * normal(bits);
        }
        x[0] += 1;
        right += std::ranges::max_element(x) == x.begin();
      }
      const double accuracy = static_cast<double>(right) / kDraws;
      CHECK(accuracy > 0.89);
      CHECK(accuracy < 0.94);  // errors of pairs overlap, of many classes more
    }
  }

  TEST_CASE("crossing: a power law is followed to where it meets the level") {
    std::vector<double> x, y;
    for (double t = 1; t <= 32; t *= 2) {
      x.push_back(t);
      y.push_back(0.03 * std::sqrt(t));
    }
    CHECK(crossing(x, y, 0.6) == doctest::Approx(400).epsilon(1e-9));
    const std::vector<double> flat(x.size(), 0.3), nothing(x.size(), NAN);
    CHECK(std::isinf(crossing(x, flat, 0.6)));
    CHECK(std::isnan(crossing(x, nothing, 0.6)));
    CHECK(std::isnan(crossing({x.data(), 1}, {y.data(), 1}, 0.6)));
  }
}

}  // namespace
}  // namespace ls::experiments
