// Needles in a haystack: sentences that tell secrets, hidden in the user's text, and a question
// about some of them at the end.
// Source: Hsieh et al., "RULER", 2024 (arXiv 2404.06654), niah of scripts/data/synthetic; words are
// ours. Keys are an adjective and a noun; values are numbers of 7 digits, such pairs of words, or
// codes of 32 hexadecimal digits. Its tasks:
//   single_2    the defaults                  single_3    value: code
//   multikey_1  keys: 4                       multivalue  values: 4
//   multiquery  keys: 4, queries: 4
//   multikey_2  haystack: needles, multikey_3 the same with value: code (there its keys are codes)
// Values of one key are to be told in the order of the text. Only answers are labelled, digits by
// digits, each after the right ones before it; "seq_acc" counts examples with all of them right.
#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "data/bytes/text_source.h"
#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class NeedleValue : std::uint8_t { kNumber, kWords, kCode };
enum class NeedleHaystack : std::uint8_t { kText, kNeedles };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::NeedleValue> {
  static constexpr std::string_view kKind = "value";
  static constexpr std::array<std::string_view, 3> kNames = {"number", "words", "code"};
};
template <>
struct ls::EnumNames<ls::data::NeedleHaystack> {
  static constexpr std::string_view kKind = "haystack";
  static constexpr std::array<std::string_view, 2> kNames = {"text", "needles"};
};

namespace ls::data {
namespace {

constexpr Index kLongestPair = 17;
constexpr std::string_view kAnswer = " Answer:";

class Needle final : public Task {
 public:
  struct Config {
    TextSource text;
    NeedleHaystack haystack = NeedleHaystack::kText;
    NeedleValue value = NeedleValue::kNumber;
    Index keys = 1, values = 1, queries = 1;
    LengthGrid lengths{{.length = 512}, {}, 100};
    std::vector<double> test_depths = {0, 0.5, 1};

    template <class F>
    void fields(F& f) {
      text.fields(f);
      f("haystack", haystack, {.help = "what needles are hidden in: text, or more needles"});
      f("value", value, {.help = "what is told of a key"});
      f("keys", keys, {.help = "keys that have needles", .min = 1, .max = 1024});
      f("values", values, {.help = "needles of each key", .min = 1, .max = 1024});
      f("queries", queries, {.help = "keys asked for", .min = 1, .max = 1024});
      f.check(queries <= keys, "queries", "must be at most keys");
      lengths.fields(f);
      f("test_depths", test_depths,
        {.help = "where the first needle asked for is hidden in tests, from 0 at the beginning to "
                 "1 at the end, in whole per cent; one setting for each and each length",
         .min = 0,
         .max = 1,
         .min_size = 1});
      const std::optional<Index> bad =
          lengths.first_length([&](Index t) { return t < most_bytes(); });
      f.check(!bad, "length",
              fmt::format("{} is too short: needles and questions take up to {} bytes",
                          bad.value_or(0), most_bytes()));
    }
    Index value_bytes() const {
      return value == NeedleValue::kNumber ? 7 : value == NeedleValue::kWords ? kLongestPair : 36;
    }
    std::string noun() const {
      return value == NeedleValue::kNumber  ? "number"
             : value == NeedleValue::kWords ? "phrase"
                                            : "code";
    }
    std::string sentence(const std::string& key, const std::string& told) const {
      return fmt::format("The secret {} of {} is {}. ", noun(), key, told);
    }
    std::string question(const std::string& key) const {
      return fmt::format("\nThe secret {} of {}?{}", noun(), key, kAnswer);
    }
    Index most_bytes() const {
      const std::string key(kLongestPair, 'k');
      const Index answer = values * (value_bytes() + 1) + 1;
      const Index needle = std::ssize(sentence(key, "")) + value_bytes();
      return 1 + keys * values * needle + queries * (std::ssize(question(key)) + answer);
    }
  };

  Needle(const Config& config, const TaskArgs& args)
      : Task("needle", args), config_(config), text_(config.text) {
    info_.vocab_in = info_.classes = 256;
    info_.metrics = {"seq_acc", "tok_acc"};
    info_.summary = text_.corpus().summary();
    add_slice(Split::kTrain, config.lengths.slice());
    for (const Index length : config.lengths.tested()) {
      for (const double depth : config.test_depths) {
        const Index percent = std::lround(100 * depth);
        add_slice(Split::kValid, {.name = fmt::format("T{}.D{}", length, percent),
                                  .setting = {{"depth_percent", percent}},
                                  .length = length,
                                  .examples = config.lengths.test_examples});
      }
    }
    for (const Split split : {Split::kTrain, Split::kValid}) {
      for (const Slice& slice : slices(split)) {
        const Index longest = std::max(slice.length, slice.max_length);
        text_.check_room("needle", split, longest);
        LS_CHECK(config.haystack == NeedleHaystack::kText || longest / 40 <= word_pairs(), kConfig,
                 "needle: {} bytes of needles need {} different keys, there are {}; lower length",
                 longest, longest / 40, word_pairs());
      }
    }
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override;

  std::vector<Predictor> predictors() const override {
    const auto answer = [this](const ExampleView& in) {
      answer_questions(in, kAnswer, [&](std::string_view before) { return told(before); });
    };
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

  std::vector<DataIdentity> identity() const override {
    std::vector<DataIdentity> out{text_.corpus().identity()};
    out.back().field = "task.path";
    return out;
  }

 private:
  std::string draw_value(Rng& numbers) const {
    if (config_.value == NeedleValue::kNumber) {
      return std::to_string(1'000'000 + numbers.below(9'000'000));
    }
    if (config_.value == NeedleValue::kWords) {
      return word_pair(numbers.below(word_pairs()));
    }
    const std::uint64_t a = numbers.next_u64(), b = numbers.next_u64();
    return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", a >> 32, a >> 16 & 0xffff, a & 0xffff,
                       b >> 48, b & 0xffffffffffff);
  }
  double depth(const ExampleKey& key, Rng& numbers) const {
    const double drawn = numbers.uniform();
    const auto& depths = config_.test_depths;
    return key.split == Split::kTrain ? drawn
                                      : depths[static_cast<std::size_t>(key.slice) % depths.size()];
  }
  /// The answer to the question that `before` ends with.
  std::string told(std::string_view before) const {
    const std::string of = fmt::format("The secret {} of ", config_.noun());
    const std::size_t asked = before.rfind(of);
    const std::string needle =
        fmt::format("{} is ", before.substr(asked, before.size() - 1 - asked));
    std::string answer;
    for (std::size_t at = before.find(needle); at < asked; at = before.find(needle, at + 1)) {
      const std::size_t from = at + needle.size();
      answer += fmt::format(" {}", before.substr(from, before.find('.', from) - from));
    }
    return answer + ".";
  }

  Config config_;
  Haystack text_;
};

void Needle::sample(const ExampleKey& key, const ExampleView& out) const {
  Rng numbers = rng(key);
  const bool text = config_.haystack == NeedleHaystack::kText;
  const Index others = text ? 0 : key.length / 40;
  const std::vector<Index> names = numbers.sample_without_replacement(
      word_pairs(), std::min(config_.keys + others, word_pairs()));
  struct Hidden {
    double depth;
    std::size_t key;
    std::string value;
  };
  std::vector<Hidden> needles;
  for (std::size_t k = 0; k < static_cast<std::size_t>(config_.keys); ++k) {
    for (Index v = 0; v < config_.values; ++v) {
      const double at = needles.empty() ? depth(key, numbers) : numbers.uniform();
      needles.push_back({at, k, draw_value(numbers)});
    }
  }
  std::ranges::stable_sort(needles, {}, &Hidden::depth);
  const auto name = [&](std::size_t k) { return word_pair(names[k]); };
  // The first key is asked for, and so is its depth; the order of questions is random.
  std::vector<std::size_t> asked;
  for (std::size_t k = 0; k < static_cast<std::size_t>(config_.queries); ++k) {
    asked.push_back(k);
  }
  numbers.shuffle(asked);
  std::string questions;
  std::vector<std::pair<Index, Index>> answers;  // from and to, in `questions`
  for (const std::size_t k : asked) {
    questions += config_.question(name(k));
    for (const Hidden& needle : needles) {
      if (needle.key == k) {
        const Index from = std::ssize(questions) + 1;
        questions += " " + needle.value;
        // Where words end is to be told too.
        answers.emplace_back(
            from, std::ssize(questions) + (config_.value == NeedleValue::kWords ? 1 : 0));
      }
    }
    questions += ".";
  }
  std::vector<std::string> sentences;
  std::vector<double> depths;
  Index left = key.length - std::ssize(questions);
  for (const Hidden& needle : needles) {
    sentences.push_back(config_.sentence(name(needle.key), needle.value));
    depths.push_back(needle.depth);
    left -= std::ssize(sentences.back());
  }
  std::string all;
  if (text) {
    all = text_.draw(numbers, key.split, left);
  } else {
    for (std::size_t k = static_cast<std::size_t>(config_.keys); k < names.size(); ++k) {
      const std::string other = config_.sentence(name(k), draw_value(numbers));
      if (std::ssize(all) + std::ssize(other) > left) {
        break;
      }
      all += other;
    }
    all.insert(0, static_cast<std::size_t>(left) - all.size(), '\n');
  }
  Haystack::put(all, sentences, depths);
  const Index from = std::ssize(all);
  all += questions;
  write_bytes(all, out);
  for (const auto& [begin, end] : answers) {
    label_bytes(all, from + begin, from + end, out);
  }
}

LS_REGISTER(Task, Needle, "needle", "secrets hidden in a text, asked for at its end (RULER)");

}  // namespace
}  // namespace ls::data
