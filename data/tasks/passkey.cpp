// Passkey retrieval: a number hidden in a text that repeats itself, asked for at the end.
// Sources: Mohtashami and Jaggi, "Landmark attention", 2023 (arXiv 2305.16300); grid of lengths and
// depths as in Chen et al., "Stuffed Mamba", 2024 (arXiv 2410.07145): of n places, one a block of
// the filler, number floor(depth (n - 1)). Two forms:
//   tokens  a block is 24 fixed tokens, the key is `KEY d1 .. d5 KEY d1 .. d5`, the question
//           `ASK d1 .. d4`, of which ASK is answered by d1 and each digit by the next
//   text    bytes of English sentences (ours): what is to come, the same few of the filler over and
//           over, the key twice, a question
// Training depths are uniform over the places.
#include <algorithm>
#include <cmath>

#include "data/length_plan.h"
#include "data/limits.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class PasskeyLabels : std::uint8_t { kAnswer, kAll };
enum class PasskeyForm : std::uint8_t { kTokens, kText };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::PasskeyLabels> {
  static constexpr std::string_view kKind = "labels";
  static constexpr std::array<std::string_view, 2> kNames = {"answer", "all"};
};
template <>
struct ls::EnumNames<ls::data::PasskeyForm> {
  static constexpr std::string_view kKind = "form";
  static constexpr std::array<std::string_view, 2> kNames = {"tokens", "text"};
};

namespace ls::data {
namespace {

constexpr Index kDigits = 10, kKey = 10, kAskKey = 11, kFillers = 12, kBlockTokens = 24;

using Tokens = std::vector<std::int64_t>;

Tokens bytes_of(std::string_view text) {
  return {text.begin(), text.end()};  // ASCII
}

/// What stands around the digits.
struct Wording {
  Tokens before;           // once, at the beginning
  Tokens block;            // over and over
  Tokens key, again, end;  // before the digits, between them and after them
  Tokens ask;
  std::int64_t zero = 0;  // the digit 0

  Index key_tokens(Index digits) const {
    return std::ssize(key) + std::ssize(again) + std::ssize(end) + 2 * digits;
  }
  /// Of everything but the filler.
  Index fixed(Index digits) const {
    return std::ssize(before) + key_tokens(digits) + std::ssize(ask) + digits - 1;
  }
};

Wording in_tokens(Index vocab, std::uint64_t seed) {
  Wording w{.key = {kKey}, .again = {kKey}, .ask = {kAskKey}};
  Rng fillers(seed, "passkey/fillers");
  for (Index i = 0; i < kBlockTokens; ++i) {
    w.block.push_back(kFillers + fillers.below(std::max<Index>(vocab - kFillers, 1)));
  }
  return w;
}

Wording in_text() {
  return {.before = bytes_of("A number is hidden in this text. Find it and keep it. "),
          .block = bytes_of("The hills are green. The sea is deep. The sand is warm. On we walk. "
                            "Home we come. "),
          .key = bytes_of("The passkey is "),
          .again = bytes_of(". Keep it. The number "),
          .end = bytes_of(" is the passkey. "),
          .ask = bytes_of("What is the passkey? The passkey is "),
          .zero = '0'};
}

class Passkey final : public Task {
 public:
  struct Config {
    PasskeyForm form = PasskeyForm::kTokens;
    Index vocab = 64;
    Index digits = 5;
    PasskeyLabels labels = PasskeyLabels::kAnswer;
    LengthGrid lengths{{.length = 128, .max_length = 512}, {128, 512, 2048}, 100};
    std::vector<double> test_depths = {0, 0.5, 1};

    template <class F>
    void fields(F& f) {
      f("form", form, {.help = "single tokens, or bytes of English"});
      f("vocab", vocab,
        {.help = "of the form tokens: ten digits, two markers, fillers",
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
      const Index fixed = wording(0).fixed(digits);
      const std::optional<Index> bad = lengths.first_length([&](Index t) { return t < fixed; });
      f.check(!bad, "length",
              fmt::format("{} is too short for a key of {} digits, shown twice, and its question: "
                          "{} tokens",
                          bad.value_or(0), digits, fixed));
    }
    Wording wording(std::uint64_t seed) const {
      return form == PasskeyForm::kText ? in_text() : in_tokens(vocab, seed);
    }
  };

  Passkey(const Config& config, const TaskArgs& args)
      : Task("passkey", args), config_(config), wording_(config.wording(args.seed)) {
    info_.vocab_in = info_.classes = config.form == PasskeyForm::kText ? 256 : config.vocab;
    info_.metrics = {"seq_acc", "tok_acc"};
    if (config.labels == PasskeyLabels::kAll) {
      info_.metrics = {"tok_acc"};
      info_.tags = {"passkey"};
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
    const Wording& w = wording_;
    const Index haystack = key.length - w.fixed(config_.digits);
    const Index block = std::ssize(w.block), places = haystack / block + 1;
    Index place = numbers.below(places);
    if (key.split != Split::kTrain) {
      const auto& depths = config_.test_depths;
      const double depth = depths[static_cast<std::size_t>(key.slice) % depths.size()];
      place = static_cast<Index>(depth * static_cast<double>(places - 1));
    }
    Tokens number(static_cast<std::size_t>(config_.digits));
    std::ranges::generate(number, [&] { return w.zero + numbers.below(kDigits); });
    auto to = std::ranges::copy(w.before, out.tokens.begin()).out;
    for (Index i = 0; i <= haystack; ++i) {
      if (i == place * block) {
        for (const Tokens* part :
             {&w.key, &std::as_const(number), &w.again, &std::as_const(number), &w.end}) {
          to = std::ranges::copy(*part, to).out;
        }
      }
      if (i < haystack) {
        *to++ = w.block[static_cast<std::size_t>(i % block)];
      }
    }
    to = std::ranges::copy(w.ask, to).out;
    const Index ask = to - out.tokens.begin() - 1;
    std::copy(number.begin(), number.end() - 1, to);
    if (config_.labels == PasskeyLabels::kAll) {
      std::copy(out.tokens.begin() + 1, out.tokens.end(), out.labels.begin());
      std::fill(out.tags.begin() + ask, out.tags.end(), 1);
    }
    std::ranges::copy(number, out.labels.begin() + ask);
  }

  std::vector<Predictor> predictors() const override {
    if (config_.labels == PasskeyLabels::kAll) {
      return {};
    }
    const auto answer = [&key = wording_.key](const ExampleView& in) {
      auto digit = std::ranges::search(in.tokens, key).end();
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
  Wording wording_;
};

LS_REGISTER(Task, Passkey, "passkey", "a number hidden in a text that repeats itself");

}  // namespace
}  // namespace ls::data
