// Passkey retrieval: a number hidden in a text that repeats itself, asked for at the end.
// Sources: Mohtashami and Jaggi, "Landmark attention", 2023 (arXiv 2305.16300); grid of lengths and
// depths as in Chen et al., "Stuffed Mamba", 2024 (arXiv 2410.07145): of n places, one a block of
// the filler, number floor(depth (n - 1)). Here tokens instead of words: a block is 24 fixed
// tokens, the key is `KEY d1 .. d5 KEY d1 .. d5`, the question `ASK d1 .. d4`, of which ASK is
// answered by d1 and each digit by the next. Training depths are uniform over the places.
#include <algorithm>
#include <cmath>

#include "data/length_plan.h"
#include "data/limits.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class PasskeyLabels : std::uint8_t { kAnswer, kAll };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::PasskeyLabels> {
  static constexpr std::string_view kKind = "labels";
  static constexpr std::array<std::string_view, 2> kNames = {"answer", "all"};
};

namespace ls::data {
namespace {

constexpr Index kDigits = 10, kKey = 10, kAskKey = 11, kFillers = 12, kBlockTokens = 24;

class Passkey final : public Task {
 public:
  struct Config {
    Index vocab = 64;
    Index digits = 5;
    PasskeyLabels labels = PasskeyLabels::kAnswer;
    LengthGrid lengths{{.length = 128, .max_length = 512}, {128, 512, 2048}, 100};
    std::vector<double> test_depths = {0, 0.5, 1};

    template <class F>
    void fields(F& f) {
      f("vocab", vocab,
        {.help = "tokens: ten digits, two markers, fillers",
         .min = kFillers + 1,
         .max = kMaxVocab});
      f("digits", digits, {.help = "digits of the key", .min = 1, .max = 1 << 10});
      f("labels", labels,
        {.help = "the digits of the answer alone, or every next token, as a language model"});
      lengths.fields(f);
      f("test_depths", test_depths,
        {.help = "where the key is hidden in tests, from 0 at the beginning to 1 at the end, in "
                 "whole per cent; one setting for each and each length",
         .min = 0,
         .max = 1,
         .min_size = 1});
      const std::optional<Index> bad =
          lengths.first_length([&](Index t) { return t < key_tokens() + digits; });
      f.check(
          !bad, "length",
          fmt::format("{} is too short for a key of {} digits, shown twice, and its question: {} "
                      "tokens",
                      bad.value_or(0), digits, key_tokens() + digits));
    }
    Index key_tokens() const { return 2 * (1 + digits); }
  };

  Passkey(const Config& config, const TaskArgs& args) : Task("passkey", args), config_(config) {
    info_.vocab_in = info_.classes = config.vocab;
    info_.metrics = {"seq_acc", "tok_acc"};
    if (config.labels == PasskeyLabels::kAll) {
      info_.metrics = {"tok_acc"};
      info_.tags = {"passkey"};
    }
    Rng fillers(args.seed, "passkey/fillers");
    for (Index i = 0; i < kBlockTokens; ++i) {
      block_.push_back(kFillers + fillers.below(config.vocab - kFillers));
    }
    add_slice(Split::kTrain, config.lengths.slice());
    std::vector<Slice> tests;
    for (const Index length : config.lengths.tested()) {
      for (const double depth : config.test_depths) {
        const Index percent = std::lround(100 * depth);
        tests.push_back({.name = fmt::format("T{}.D{}", length, percent),
                         .setting = {{"depth_percent", percent}},
                         .length = length,
                         .examples = config.lengths.test_examples});
      }
    }
    add_test_slices(tests);
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    const Index digits = config_.digits;
    const Index haystack = key.length - config_.key_tokens() - digits;
    const Index places = haystack / kBlockTokens + 1;
    Index place = numbers.below(places);
    if (key.split != Split::kTrain) {
      const auto& depths = config_.test_depths;
      const double depth = depths[static_cast<std::size_t>(key.slice) % depths.size()];
      place = static_cast<Index>(depth * static_cast<double>(places - 1));
    }
    std::vector<std::int64_t> number(static_cast<std::size_t>(digits));
    std::ranges::generate(number, [&] { return numbers.below(kDigits); });
    auto to = out.tokens.begin();
    for (Index i = 0; i <= haystack; ++i) {
      for (Index shown = 0; i == place * kBlockTokens && shown < 2; ++shown) {
        *to++ = kKey;
        to = std::ranges::copy(number, to).out;
      }
      if (i < haystack) {
        *to++ = block_[static_cast<std::size_t>(i % kBlockTokens)];
      }
    }
    const auto ask = static_cast<std::size_t>(to - out.tokens.begin());
    *to++ = kAskKey;
    std::copy(number.begin(), number.end() - 1, to);
    if (config_.labels == PasskeyLabels::kAll) {
      std::copy(out.tokens.begin() + 1, out.tokens.end(), out.labels.begin());
      std::fill(out.tags.begin() + static_cast<Index>(ask), out.tags.end(), 1);
    }
    std::ranges::copy(number, out.labels.begin() + static_cast<Index>(ask));
  }

  std::vector<Predictor> predictors() const override {
    if (config_.labels == PasskeyLabels::kAll) {
      return {};
    }
    const auto answer = [](const ExampleView& in) {
      auto digit = std::ranges::find(in.tokens, kKey) + 1;
      for (std::int64_t& label : in.labels) {
        if (label != kIgnore) {
          label = *digit++;
        }
      }
    };
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

 private:
  Config config_;
  std::vector<std::int64_t> block_;
};

LS_REGISTER(Task, Passkey, "passkey", "a number hidden in a text that repeats itself");

}  // namespace
}  // namespace ls::data
