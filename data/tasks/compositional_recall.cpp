// Associative recall with keys of two tokens: K = side^2 keys, all pairs of `side` first and `side`
// second tokens, each with a value of its own. One token of a key says nothing: both must be bound
// before they are looked up, which takes a short convolution of three taps or another layer.
// Source: compositional MQAR of the Zoology repository (Arora et al., 2023, arXiv 2312.04927),
// zoology/data/compositional_mqar.py: thirds of the vocabulary are first tokens (from 1), second
// tokens and values; triples `first second value` in random order; then queries `first second` at
// every third place, drawn as in multi-query associative recall, the answer labelled at the second
// token and never written. 0 is blank.
#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "data/limits.h"
#include "data/query_slots.h"
#include "data/task.h"

namespace ls::data {
namespace {

struct GridSetting {
  std::optional<Index> length;
  Index side = 3;
  double weight = 1;

  template <class F>
  void fields(F& f) {
    f("length", length, {.help = "tokens; null: as short as the example allows", .min = 1});
    f("side", side,
      {.help = "first and second tokens; keys are its square", .min = 1, .max = 1 << 12});
    f("weight", weight, {.help = "share of the training batches", .min = 0});
  }
  Index keys() const { return side * side; }
  Index shortest() const { return 6 * keys(); }
  Index tokens() const { return length.value_or(shortest()); }
};

class CompositionalRecall final : public Task {
 public:
  struct Config {
    Index vocab = 256;
    double power_a = 0.01;
    std::vector<GridSetting> train = {{.side = 2}, {.side = 3}, {.side = 4}};
    std::vector<GridSetting> test;
    Index test_examples = 500;

    template <class F>
    void fields(F& f) {
      f("vocab", vocab,
        {.help = "tokens; thirds are first and second tokens of keys, and values",
         .min = 6,
         .max = kMaxVocab});
      f("power_a", power_a,
        {.help = "query slot i has weight i^(a-1): near 0 favours short gaps, 1 is uniform",
         .above = 0});
      f("train", train, {.help = "settings to train on", .min_size = 1});
      f("test", test, {.help = "settings to validate and test on; empty: those of training"});
      f("test_examples", test_examples, {.help = "examples for each test setting", .min = 1});
      for (const auto& [name, settings] : {std::pair("train", &train), std::pair("test", &test)}) {
        for (const GridSetting& s : *settings) {
          f.check(s.side <= third() - 1 && s.keys() <= vocab - 2 * third(), name,
                  fmt::format("side {} needs {} tokens of each kind of key and {} values, a "
                              "vocabulary of {} has {} and {}; lower side or raise vocab",
                              s.side, s.side, s.keys(), vocab, third() - 1, vocab - 2 * third()));
          f.check(s.tokens() >= s.shortest(), name,
                  fmt::format("side {} takes at least {} tokens, its length is {}", s.side,
                              s.shortest(), s.tokens()));
        }
      }
    }
    Index third() const { return vocab / 3; }
  };

  CompositionalRecall(const Config& config, const TaskArgs& args)
      : Task("compositional_recall", args), config_(config) {
    if (config_.test.empty()) {
      config_.test = config_.train;
    }
    info_.vocab_in = info_.classes = config.vocab;
    info_.metrics = {"ex_acc", "tok_acc", "seq_acc"};
    for (const GridSetting& s : config_.train) {
      add_slice(Split::kTrain, slice(s, 0));
    }
    std::vector<Slice> tests;
    for (const GridSetting& s : config_.test) {
      tests.push_back(slice(s, config.test_examples));
    }
    add_test_slices(tests);
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    const auto& settings = key.split == Split::kTrain ? config_.train : config_.test;
    const GridSetting& s = settings[static_cast<std::size_t>(key.slice)];
    const Index third = config_.third(), keys = s.keys();
    const std::vector<Index> first = numbers.sample_without_replacement(third - 1, s.side);
    const std::vector<Index> second = numbers.sample_without_replacement(third, s.side);
    const std::vector<Index> value =
        numbers.sample_without_replacement(config_.vocab - 2 * third, keys);
    const auto write = [&](Index k, Index place) {
      const auto at = static_cast<std::size_t>(place);
      out.tokens[at] = 1 + first[static_cast<std::size_t>(k / s.side)];
      out.tokens[at + 1] = third + second[static_cast<std::size_t>(k % s.side)];
      return 2 * third + value[static_cast<std::size_t>(k)];
    };
    Index place = 0;
    for (const Index k : numbers.sample_without_replacement(keys, keys)) {
      const Index told = write(k, place);
      out.tokens[static_cast<std::size_t>(place + 2)] = told;
      place += 3;
    }
    const std::vector<Index> slots =
        draw_slots(numbers, (key.length - place) / 3, keys, config_.power_a);
    for (Index k = 0; k < keys; ++k) {
      const Index at = place + 3 * slots[static_cast<std::size_t>(k)];
      out.labels[static_cast<std::size_t>(at + 1)] = write(k, at);
    }
  }

  std::vector<Predictor> predictors() const override {
    const auto answer = [values = 2 * config_.third()](const ExampleView& in) {
      std::map<std::pair<std::int64_t, std::int64_t>, std::int64_t> value;
      for (std::size_t t = 2; t < in.tokens.size() && in.tokens[t] >= values; t += 3) {
        value[{in.tokens[t - 2], in.tokens[t - 1]}] = in.tokens[t];
      }
      for (std::size_t t = 1; t < in.tokens.size(); ++t) {
        if (in.labels[t] != kIgnore) {
          in.labels[t] = value.at({in.tokens[t - 1], in.tokens[t]});
        }
      }
    };
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

 private:
  Slice slice(const GridSetting& s, Index examples) const {
    return {.name = fmt::format("T{}.K{}", s.tokens(), s.keys()),
            .setting = {{"pairs", s.keys()}},
            .length = s.tokens(),
            .examples = examples,
            .weight = s.weight};
  }

  Config config_;
};

LS_REGISTER(Task, CompositionalRecall, "compositional_recall",
            "associative recall whose keys are two tokens (compositional MQAR)");

}  // namespace
}  // namespace ls::data
