// Bracket languages of bounded depth, Dyck-(k, m): k kinds of brackets, at most m open.
// Sources: Hewitt et al., "RNNs can generate bounded hierarchical languages", 2020 (arXiv
// 2010.07515); Yao et al., 2021 (arXiv 2105.11115). With nothing open the string ends or opens a
// bracket, half and half; with m open it closes; else it opens or closes, half and half; kinds are
// as likely each. The length of a string is drawn from those of a setting with the weights that
// they have under this process, by sums over all strings instead of by rejection. Published: k 8, m
// 5, trained at 1 .. 180, tested at 181 .. 360. Closing brackets have tags by the distance of their
// opening ones, whose mean is the published score.
#include <algorithm>
#include <bit>
#include <cmath>

#include "data/length_plan.h"
#include "data/path_sums.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class DyckLabels : std::uint8_t { kAll, kClose };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::DyckLabels> {
  static constexpr std::string_view kKind = "labels";
  static constexpr std::array<std::string_view, 2> kNames = {"all", "close"};
};

namespace ls::data {
namespace {

struct DyckRange {
  Index shortest = 2;
  Index longest = 60;

  template <class F>
  void fields(F& f) {
    f("shortest", shortest, {.help = "brackets of a string", .min = 2});
    f("longest", longest, {.help = "brackets of a string", .min = 2, .max = 1 << 20});
    f.check(longest / 2 * 2 >= shortest, "longest",
            "no even length lies in the range; strings have as many closing brackets as opening");
  }
};

class Dyck final : public Task {
 public:
  struct Config {
    Index kinds = 2;
    Index depth = 3;
    DyckLabels labels = DyckLabels::kAll;
    DyckRange train;
    std::vector<DyckRange> test = {{2, 60}, {61, 120}};
    Index test_examples = 500;

    template <class F>
    void fields(F& f) {
      f("kinds", kinds, {.help = "kinds of brackets, k", .min = 1, .max = 1 << 16});
      f("depth", depth, {.help = "most brackets open at once, m", .min = 1, .max = 1 << 10});
      f("labels", labels,
        {.help = "every next token, the end included, as a language model, or those that close "
                 "alone"});
      f("train", train, {.help = "lengths of strings to train on"});
      f("test", test, {.help = "lengths to test, one setting each", .min_size = 1});
      f("test_examples", test_examples, {.help = "examples for each test setting", .min = 1});
      f.check((longest() + 1) * (depth + 1) <= PathSums::kMostSums, "depth",
              fmt::format("strings of {} brackets and depth {} take a table of {} sums, at most {} "
                          "are supported; lower depth or the lengths",
                          longest(), depth, (longest() + 1) * (depth + 1), PathSums::kMostSums));
    }
    Index longest() const {
      Index most = train.longest;
      for (const DyckRange& range : test) {
        most = std::max(most, range.longest);
      }
      return most;
    }
  };

  Dyck(const Config& config, const TaskArgs& args)
      : Task("dyck", args), config_(config), walks_(edges(config), last(config), config.longest()) {
    info_.vocab_in = info_.classes = end() + 1;
    info_.metrics = {"tok_acc"};
    if (config.labels == DyckLabels::kClose) {
      info_.metrics.emplace_back("seq_acc");  // else most labels are chance
    }
    for (Index d = 1; d < config.longest(); d *= 2) {
      info_.tags.push_back(fmt::format("close.{}", d));
    }
    add_range(Split::kTrain, config.train);
    for (const DyckRange& range : config.test) {
      add_range(Split::kValid, range);
      add_range(Split::kTest, range);
    }
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    const std::vector<Index>& lengths =
        lengths_[static_cast<std::size_t>(key.split)][static_cast<std::size_t>(key.slice)].even;
    const std::vector<double>& until =
        lengths_[static_cast<std::size_t>(key.split)][static_cast<std::size_t>(key.slice)].until;
    const double at = numbers.uniform() * until.back();
    const auto chosen = std::upper_bound(until.begin(), until.end() - 1, at) - until.begin();
    const Index length = lengths[static_cast<std::size_t>(chosen)];
    std::vector<std::pair<Index, Index>> open;  // kind and place
    std::ranges::fill(out.tokens, end());
    for (Index t = 0; t < length; ++t) {
      const Edge& step = walks_.draw(numbers, length - t, std::ssize(open));
      const auto place = static_cast<std::size_t>(t);
      if (step.to > step.from) {
        open.emplace_back(numbers.below(config_.kinds), t);
        out.tokens[place] = open.back().first;
      } else {
        out.tokens[place] = config_.kinds + open.back().first;
        if (t > 0) {
          const auto distance = static_cast<std::uint64_t>(t - open.back().second);
          out.tags[place - 1] = static_cast<std::uint8_t>(std::bit_width(distance));
        }
        open.pop_back();
      }
    }
    for (std::size_t t = 0; t < static_cast<std::size_t>(length); ++t) {
      if (config_.labels == DyckLabels::kAll || out.tags[t] > 0) {
        out.labels[t] = t + 1 < out.tokens.size() ? out.tokens[t + 1] : end();
      }
    }
  }

  std::vector<Predictor> predictors() const override {
    const auto answer = [kinds = config_.kinds, end = end()](const ExampleView& in) {
      std::vector<std::int64_t> open;
      for (std::size_t t = 0; t < in.tokens.size(); ++t) {
        if (in.tokens[t] < kinds) {
          open.push_back(in.tokens[t]);
        } else if (in.tokens[t] < end) {
          open.pop_back();
        }
        if (in.labels[t] != kIgnore) {
          in.labels[t] = open.empty() ? end : kinds + open.back();
        }
      }
    };
    const bool exact = config_.labels == DyckLabels::kClose;
    return {{.name = exact ? "exact" : "closes", .exact = exact, .answer = answer}};
  }

 private:
  struct Lengths {
    std::vector<Index> even;
    std::vector<double> until;  // running sums of their weights
  };

  // States are brackets open; one opens with all kinds together.
  static std::vector<Edge> edges(const Config& config) {
    std::vector<Edge> edges;
    for (Index d = 0; d <= config.depth; ++d) {
      if (d < config.depth) {
        edges.push_back({.from = d, .to = d + 1, .weight = 0.5});
      }
      if (d > 0) {
        edges.push_back({.from = d, .to = d - 1, .weight = d < config.depth ? 0.5 : 1});
      }
    }
    return edges;
  }
  static std::vector<double> last(const Config& config) {
    std::vector<double> last(static_cast<std::size_t>(config.depth + 1));
    last[0] = 0.5;
    return last;
  }
  Index end() const { return 2 * config_.kinds; }

  void add_range(Split split, const DyckRange& range) {
    Lengths lengths;
    for (Index n = (range.shortest + 1) / 2 * 2; n <= range.longest; n += 2) {
      lengths.even.push_back(n);
    }
    double sum = 0;
    for (const Index n : lengths.even) {
      sum += std::exp(walks_.log_sum(n, 0) - walks_.log_sum(lengths.even.front(), 0));
      lengths.until.push_back(sum);
    }
    lengths_[static_cast<std::size_t>(split)].push_back(std::move(lengths));
    add_slice(split, {.name = fmt::format("T{}-{}", range.shortest, range.longest),
                      .setting = {{"shortest", range.shortest}},
                      .length = range.longest,
                      .examples = split == Split::kTrain ? 0 : config_.test_examples});
  }

  Config config_;
  PathSums walks_;
  std::array<std::vector<Lengths>, kNumSplits> lengths_;
};

LS_REGISTER(Task, Dyck, "dyck", "nested brackets of bounded depth");

}  // namespace
}  // namespace ls::data
