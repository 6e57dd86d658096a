// Word problems of groups: after every element the product of all so far is to be told. Which
// groups a layer can follow says which matrices its transition reaches: S3 needs two reflections a
// token, S5 four, S4 and A5 two, being rotations.
// Sources: Merrill et al., "The illusion of state in state-space models", 2024 (arXiv 2404.08819);
// Grazzi et al., 2024 (arXiv 2411.12537) for `inputs: swaps`; Siems et al., "DeltaProduct", 2025
// (arXiv 2502.10297), which trains at 128 and tests at 512. Labels are acc <- acc x, from the
// identity; permutations are numbered in the order of their images, the identity being 0, and
// acc x means acc first: i -> x[acc[i]].
#include <algorithm>
#include <map>
#include <numeric>

#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class Group : std::uint8_t { kS3, kS4, kS5, kA4, kA5, kZ60 };
enum class GroupInputs : std::uint8_t { kAll, kSwaps, kSwapsAndCycles };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::Group> {
  static constexpr std::string_view kKind = "group";
  static constexpr std::array<std::string_view, 6> kNames = {"s3", "s4", "s5", "a4", "a5", "z60"};
};
template <>
struct ls::EnumNames<ls::data::GroupInputs> {
  static constexpr std::string_view kKind = "inputs";
  static constexpr std::array<std::string_view, 3> kNames = {"all", "swaps", "swaps_and_cycles"};
};

namespace ls::data {
namespace {

using Images = std::vector<Index>;

bool is_even(const Images& p) {
  Index inversions = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    inversions += std::count_if(p.begin() + static_cast<Index>(i), p.end(),
                                [&](Index later) { return later < p[i]; });
  }
  return inversions % 2 == 0;
}

/// The permutations of n items, or the even ones, by their images.
std::vector<Images> permutations_of(Index n, bool even) {
  std::vector<Images> all;
  Images p(static_cast<std::size_t>(n));
  std::iota(p.begin(), p.end(), 0);
  do {
    if (!even || is_even(p)) {
      all.push_back(p);
    }
  } while (std::next_permutation(p.begin(), p.end()));
  return all;
}

/// The rotations of n items.
std::vector<Images> rotations_of(Index n) {
  std::vector<Images> all;
  for (Index by = 0; by < n; ++by) {
    Images& p = all.emplace_back(static_cast<std::size_t>(n));
    for (Index i = 0; i < n; ++i) {
      p[static_cast<std::size_t>(i)] = (i + by) % n;
    }
  }
  return all;
}

std::vector<Images> elements_of(Group group) {
  switch (group) {
    case Group::kS3:
      return permutations_of(3, false);
    case Group::kS4:
      return permutations_of(4, false);
    case Group::kS5:
      return permutations_of(5, false);
    case Group::kA4:
      return permutations_of(4, true);
    case Group::kA5:
      return permutations_of(5, true);
    case Group::kZ60:
      break;
  }
  return rotations_of(60);
}

class Permutations final : public Task {
 public:
  struct Config {
    Group group = Group::kS3;
    GroupInputs inputs = GroupInputs::kAll;
    LengthGrid lengths{{.length = 16}, {16, 32, 64}};

    template <class F>
    void fields(F& f) {
      f("group", group, {.help = "permutations of n items (s), the even ones (a), rotations (z)"});
      f("inputs", inputs,
        {.help =
             "elements that come: all, swaps of two items and the identity, or these and cycles "
             "of three"});
      lengths.fields(f);
      f.check(inputs == GroupInputs::kAll || group == Group::kS3 || group == Group::kS4 ||
                  group == Group::kS5,
              "inputs", "swaps are elements of the groups s3, s4 and s5 only");
    }
  };

  Permutations(const Config& config, const TaskArgs& args)
      : Task("permutations", args), elements_(elements_of(config.group)) {
    info_.vocab_in = info_.classes = std::ssize(elements_);
    info_.metrics = {"seq_acc", "tok_acc"};
    multiply_out();
    const Index most_moved = config.inputs == GroupInputs::kSwaps            ? 2
                             : config.inputs == GroupInputs::kSwapsAndCycles ? 3
                                                                             : 60;
    for (Index e = 0; e < std::ssize(elements_); ++e) {
      const Images& p = elements_[static_cast<std::size_t>(e)];
      Index moved = 0;
      for (std::size_t i = 0; i < p.size(); ++i) {
        moved += p[i] != static_cast<Index>(i);
      }
      if (moved <= most_moved) {
        inputs_.push_back(e);
      }
    }
    add_slice(Split::kTrain, config.lengths.slice());
    add_test_slices(config.lengths.test_slices());
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    std::size_t product = 0;
    for (std::size_t t = 0; t < out.tokens.size(); ++t) {
      const Index x = inputs_[static_cast<std::size_t>(numbers.below(std::ssize(inputs_)))];
      product = product_[product * elements_.size() + static_cast<std::size_t>(x)];
      out.tokens[t] = x;
      out.labels[t] = static_cast<std::int64_t>(product);
    }
  }

  /// Moves the items one by one, without the table of products.
  std::vector<Predictor> predictors() const override {
    const auto answer = [this](const ExampleView& in) {
      Images items = elements_.front();
      for (std::size_t t = 0; t < in.tokens.size(); ++t) {
        const Images& x = elements_[static_cast<std::size_t>(in.tokens[t])];
        for (Index& item : items) {
          item = x[static_cast<std::size_t>(item)];
        }
        if (in.labels[t] != kIgnore) {
          in.labels[t] = std::ranges::find(elements_, items) - elements_.begin();
        }
      }
    };
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

 private:
  void multiply_out() {
    std::map<Images, std::size_t> number;
    for (std::size_t e = 0; e < elements_.size(); ++e) {
      number[elements_[e]] = e;
    }
    for (const Images& a : elements_) {
      for (const Images& b : elements_) {
        Images ab;
        for (const Index i : a) {
          ab.push_back(b[static_cast<std::size_t>(i)]);
        }
        product_.push_back(number.at(ab));
      }
    }
  }

  std::vector<Images> elements_;
  std::vector<Index> inputs_;
  std::vector<std::size_t> product_;  // [element, element]
};

LS_REGISTER(Task, Permutations, "permutations", "running product in a group (word problem)");

}  // namespace
}  // namespace ls::data
