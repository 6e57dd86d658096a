// In-context linear regression: points x with their y = w x, another w in every example; at each x
// its y is to be told.
// Source: Garg et al., "What can transformers learn in-context?", 2022 (arXiv 2208.01066): x and w
// standard normal of n = 20, the sequence x1 y1 x2 y2 .., y padded with zeros to n channels; sparse
// (3 of 20 weights) and noisy variants; the loss is the square of the error. Here y over the root
// of the number of weights, of variance 1, is told as one of `bins` classes of equal width on [-4,
// 4], the outer ones open. The class with middle v has the embedding (v, -v^2 / 2), so that outputs
// p (m, 1) make a bell of bins around m with precision p: the cross-entropy is the square of the
// error times p / 2, and what p costs. One channel more is 1 at x and -1 at y, without which maps
// that have no biases are odd and know no p. "nmse" compares the middles of bins: it has a floor of
// the width's square over 12. Least squares, ridge, averaging and three nearest neighbors are
// measured beside models in the same bins.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {

using Vector = std::vector<double>;

double dot(std::span<const float> a, std::span<const double> b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

/// Points of one example so far, as sums: X'X and X'y.
class NormalEquations {
 public:
  explicit NormalEquations(std::size_t n) : n_(n), xx_(n * n), xy_(n) {}
  void add(std::span<const float> x, double y) {
    for (std::size_t i = 0; i < n_; ++i) {
      xy_[i] += x[i] * y;
      for (std::size_t j = 0; j < n_; ++j) {
        xx_[i * n_ + j] += static_cast<double>(x[i]) * x[j];
      }
    }
  }
  /// (X'X + penalty) w = X'y, by Cholesky.
  Vector solve(double penalty) const {
    Vector l(n_ * n_), w = xy_;
    for (std::size_t i = 0; i < n_; ++i) {
      for (std::size_t j = 0; j <= i; ++j) {
        double sum = xx_[i * n_ + j] + (i == j ? penalty : 0);
        for (std::size_t k = 0; k < j; ++k) {
          sum -= l[i * n_ + k] * l[j * n_ + k];
        }
        l[i * n_ + j] = i == j ? std::sqrt(std::max(sum, 1e-300)) : sum / l[j * n_ + j];
      }
    }
    for (std::size_t i = 0; i < n_; ++i) {
      for (std::size_t k = 0; k < i; ++k) {
        w[i] -= l[i * n_ + k] * w[k];
      }
      w[i] /= l[i * n_ + i];
    }
    for (std::size_t i = n_; i-- > 0;) {
      for (std::size_t k = i + 1; k < n_; ++k) {
        w[i] -= l[k * n_ + i] * w[k];
      }
      w[i] /= l[i * n_ + i];
    }
    return w;
  }

 private:
  std::size_t n_;
  Vector xx_, xy_;
};

class Regression final : public Task {
 public:
  struct Config {
    Index dims = 5;
    Index points = 15;
    std::vector<Index> test_points;
    Index nonzero = 0;
    double noise = 0;
    Index bins = 64;
    Index test_examples = 500;

    template <class F>
    void fields(F& f) {
      f("dims", dims, {.help = "channels n of x", .min = 1, .max = 1024});
      f("points", points, {.help = "points of a training example", .min = 1, .max = 1 << 20});
      f("test_points", test_points,
        {.help = "points in tests, one setting each; empty: as in training",
         .min = 1,
         .max = 1 << 20});
      f("nonzero", nonzero, {.help = "weights that are not zero; 0: all", .min = 0, .max = 1024});
      f("noise", noise, {.help = "standard deviation of what is added to y", .min = 0});
      f("bins", bins, {.help = "classes of y", .min = 2, .max = 1 << 16});
      f("test_examples", test_examples, {.help = "examples for each test setting", .min = 1});
      f.check(nonzero <= dims, "nonzero", "must be at most dims");
    }
  };

  Regression(const Config& config, const TaskArgs& args)
      : Task("regression", args),
        config_(config),
        n_(static_cast<std::size_t>(config.dims)),
        weights_(config.nonzero > 0 ? config.nonzero : config.dims) {
    info_.vector_width = config.dims + 1;
    info_.classes = config.bins;
    info_.metrics = {"nmse", "tok_acc"};
    info_.tags = {"few_points", "n_points"};  // fewer than n seen, n and more
    for (Index bin = 0; bin < config.bins; ++bin) {
      info_.class_values.push_back(kLeast + (static_cast<double>(bin) + 0.5) * width());
    }
    info_.class_embeddings = Tensor::empty({config.bins, 2}, DType::kF32);
    float* embedding = info_.class_embeddings.data<float>();
    for (const double v : info_.class_values) {
      *embedding++ = static_cast<float>(v);
      *embedding++ = static_cast<float>(-v * v / 2);
    }
    const auto slice = [](Index points, Index examples) {
      return Slice{.name = fmt::format("N{}", points),
                   .setting = {{"points", points}},
                   .length = 2 * points,
                   .examples = examples};
    };
    add_slice(Split::kTrain, slice(config.points, 0));
    std::vector<Slice> tests;
    for (const Index points :
         config.test_points.empty() ? std::vector{config.points} : config.test_points) {
      tests.push_back(slice(points, config.test_examples));
    }
    add_test_slices(tests);
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    Vector w(n_);
    numbers.normal(w);
    const std::vector<Index> order = numbers.sample_without_replacement(config_.dims, config_.dims);
    for (std::size_t i = static_cast<std::size_t>(weights_); i < n_; ++i) {
      w[static_cast<std::size_t>(order[i])] = 0;
    }
    for (std::size_t t = 0; t < out.labels.size(); t += 2) {
      const std::span<float> x = step(out, t), y = step(out, t + 1);
      mark(out, t) = 1;
      mark(out, t + 1) = -1;
      std::ranges::generate(x, [&] { return static_cast<float>(numbers.normal()); });
      y[0] = static_cast<float>(dot(x, w) + config_.noise * numbers.normal());
      out.labels[t] = bin(y[0]);
      out.tags[t] = t / 2 < n_ ? 1 : 2;
    }
  }

  std::vector<Predictor> predictors() const override {
    const double noise = config_.noise * config_.noise;
    // Without noise the limit of no penalty: the shortest of the weights that fit.
    return {of_weights("least_squares", 1e-9),
            of_weights("ridge", noise > 0 ? noise : 1),
            {.name = "averaging", .answer = [this](const ExampleView& in) { average(in); }},
            {.name = "3_neighbors", .answer = [this](const ExampleView& in) { neighbors(in); }}};
  }

 private:
  static constexpr double kLeast = -4, kMost = 4;

  double width() const { return (kMost - kLeast) / static_cast<double>(config_.bins); }
  std::int64_t bin(double y) const {
    const double scaled = y / std::sqrt(static_cast<double>(weights_));
    const double place = std::floor((scaled - kLeast) / width());
    return static_cast<std::int64_t>(std::clamp(place, 0.0, static_cast<double>(config_.bins - 1)));
  }
  std::span<float> step(const ExampleView& view, std::size_t t) const {
    return view.vectors.subspan(t * (n_ + 1), n_);
  }
  float& mark(const ExampleView& view, std::size_t t) const {
    return view.vectors[t * (n_ + 1) + n_];
  }

  /// `tell` gets the point and has seen those before.
  template <class Seen, class Tell>
  void go_through(const ExampleView& in, const Seen& seen, const Tell& tell) const {
    for (std::size_t t = 0; t < in.labels.size(); ++t) {
      if (t % 2 == 1) {
        seen(step(in, t - 1), static_cast<double>(step(in, t)[0]));
      } else if (in.labels[t] != kIgnore) {
        in.labels[t] = bin(tell(step(in, t)));
      }
    }
  }
  Predictor of_weights(std::string name, double penalty) const {
    return {.name = std::move(name), .answer = [this, penalty](const ExampleView& in) {
              NormalEquations points(n_);
              go_through(
                  in, [&](std::span<const float> x, double y) { points.add(x, y); },
                  [&](std::span<const float> x) { return dot(x, points.solve(penalty)); });
            }};
  }
  /// w is the mean of y x.
  void average(const ExampleView& in) const {
    Vector sum(n_);
    double count = 0;
    go_through(
        in,
        [&](std::span<const float> x, double y) {
          ++count;
          for (std::size_t i = 0; i < n_; ++i) {
            sum[i] += y * x[i];
          }
        },
        [&](std::span<const float> x) { return dot(x, sum) / std::max(count, 1.0); });
  }
  void neighbors(const ExampleView& in) const {
    std::vector<std::pair<std::span<const float>, double>> points;
    go_through(
        in, [&](std::span<const float> x, double y) { points.emplace_back(x, y); },
        [&](std::span<const float> x) {
          std::vector<std::pair<double, double>> by_distance;
          for (const auto& [other, y] : points) {
            double square = 0;
            for (std::size_t i = 0; i < n_; ++i) {
              square += (x[i] - other[i]) * (x[i] - other[i]);
            }
            by_distance.emplace_back(square, y);
          }
          const auto k = std::min<std::size_t>(3, by_distance.size());
          std::partial_sort(by_distance.begin(), by_distance.begin() + static_cast<Index>(k),
                            by_distance.end());
          double sum = 0;
          for (std::size_t i = 0; i < k; ++i) {
            sum += by_distance[i].second;
          }
          return sum / static_cast<double>(std::max<std::size_t>(k, 1));
        });
  }

  Config config_;
  std::size_t n_;
  Index weights_;  // that are not zero
};

LS_REGISTER(Task, Regression, "regression", "linear regression from the points of the example");

}  // namespace
}  // namespace ls::data
