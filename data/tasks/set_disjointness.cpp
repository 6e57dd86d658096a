// Set disjointness: two sets of tokens that share exactly one, which is to be told. What a reader
// must hold depends on which set comes first; reading twice (`passes: 2`) removes the difference.
// Source: Arora et al., "Just Read Twice", 2024 (arXiv 2407.05483), and the generator of its
// repository, prefix-linear-attention, synthetic/zoology/data/non_autoreg.py:
// `1 A 2 B 3`, A and B drawn without replacement from two halves of a permutation of the tokens
// 4 .. vocab-1, one of B replaced by one of A. There 2048 tokens, 20000 examples a setting, here
// endless.
#include <algorithm>
#include <set>

#include "data/limits.h"
#include "data/task.h"

namespace ls::data {
namespace {

constexpr Index kFirstMark = 1, kSecondMark = 2, kAsk = 3, kSpecials = 4;

struct SetSizes {
  Index first = 4;
  Index second = 16;
  double weight = 1;

  template <class F>
  void fields(F& f) {
    f("first", first, {.help = "tokens of the first set", .min = 1, .max = kMaxVocab});
    f("second", second, {.help = "tokens of the second set", .min = 1, .max = kMaxVocab});
    f("weight", weight, {.help = "share of the training batches", .min = 0});
  }
};

class SetDisjointness final : public Task {
 public:
  struct Config {
    Index vocab = 128;
    Index passes = 1;
    std::vector<SetSizes> train = {{2, 16}, {16, 2}, {4, 32}, {32, 4}};
    std::vector<SetSizes> test;
    Index test_examples = 1000;

    template <class F>
    void fields(F& f) {
      f("vocab", vocab,
        {.help = "tokens, the first four being marks", .min = kSpecials + 2, .max = kMaxVocab});
      f("passes", passes, {.help = "times both sets are read", .min = 1, .max = 1 << 16});
      f("train", train, {.help = "sizes to train on", .min_size = 1});
      f("test", test, {.help = "sizes to validate and test on; empty: those of training"});
      f("test_examples", test_examples, {.help = "examples for each test setting", .min = 1});
      for (const auto& [name, settings] : {std::pair("train", &train), std::pair("test", &test)}) {
        for (const SetSizes& s : *settings) {
          f.check(std::max(s.first, s.second) <= half(), name,
                  fmt::format("sets of {} and {} tokens need {} each, a vocabulary of {} has {}; "
                              "raise vocab",
                              s.first, s.second, std::max(s.first, s.second), vocab, half()));
        }
      }
    }
    Index half() const { return (vocab - kSpecials) / 2; }
  };

  SetDisjointness(const Config& config, const TaskArgs& args)
      : Task("set_disjointness", args), config_(config) {
    if (config_.test.empty()) {
      config_.test = config_.train;
    }
    info_.vocab_in = info_.classes = config.vocab;
    for (const SetSizes& s : config_.train) {
      add_slice(Split::kTrain, slice(s, 0));
    }
    std::vector<Slice> tests;
    for (const SetSizes& s : config_.test) {
      tests.push_back(slice(s, config.test_examples));
    }
    add_test_slices(tests);
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    const auto& settings = key.split == Split::kTrain ? config_.train : config_.test;
    const SetSizes& s = settings[static_cast<std::size_t>(key.slice)];
    // The first of both, without replacement, are the same as the starts of a permutation's halves.
    std::vector<Index> drawn =
        numbers.sample_without_replacement(config_.vocab - kSpecials, s.first + s.second);
    const std::span<Index> a(drawn.data(), static_cast<std::size_t>(s.first));
    const std::span<Index> b(drawn.data() + s.first, static_cast<std::size_t>(s.second));
    const Index shared = a[static_cast<std::size_t>(numbers.below(s.first))];
    b[static_cast<std::size_t>(numbers.below(s.second))] = shared;
    auto to = out.tokens.begin();
    const auto write = [&](Index mark, std::span<const Index> set) {
      *to++ = mark;
      to = std::ranges::transform(set, to, [](Index x) { return kSpecials + x; }).out;
    };
    for (Index pass = 0; pass < config_.passes; ++pass) {
      write(kFirstMark, a);
      write(kSecondMark, b);
    }
    *to = kAsk;
    out.labels.back() = kSpecials + shared;
  }

  std::vector<Predictor> predictors() const override {
    const auto answer = [](const ExampleView& in) {
      std::set<std::int64_t> first;
      std::int64_t shared = 0;
      bool second = false;
      for (const std::int64_t x : in.tokens) {
        second = x < kSpecials ? x == kSecondMark : second;
        if (second && first.contains(x)) {
          shared = x;
        }
        if (!second && x >= kSpecials) {
          first.insert(x);
        }
      }
      in.labels.back() = shared;
    };
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

 private:
  Slice slice(const SetSizes& s, Index examples) const {
    return {.name = fmt::format("A{}.B{}", s.first, s.second),
            .setting = {{"first", s.first}, {"second", s.second}},
            .length = config_.passes * (s.first + s.second + 2) + 1,
            .examples = examples,
            .weight = s.weight};
  }

  Config config_;
};

LS_REGISTER(Task, SetDisjointness, "set_disjointness", "the one token that two sets share");

}  // namespace
}  // namespace ls::data
