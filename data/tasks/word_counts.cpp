// Words that come often: from a long list of words, those that come most are to be told.
// Source: Hsieh et al., "RULER", 2024 (arXiv 2404.06654), common_words_extraction.py and
// freq_words_extraction.py:
//   common    a numbered, shuffled list in which `common` words come `common_times` each (there 10
//             and 30) and all others `other_times` (there 3); the first are to be told
//   frequent  a vocabulary of length / 50 random codes of six letters; rank r comes in proportion
//             to r^-alpha (there 2); rank 1 is written "..." and is noise, ranks 2 .. 4 are to be
//             told
// Words of the first are told in the order in which they come first, codes by rank. As many other
// words as fit the length; lines of nothing before fill it. Words are the user's: those of the text
// that have 3 .. 8 small letters. `frequent` takes nothing from the text.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/base/error.h"
#include "data/bytes/text_source.h"
#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class WordCountVariant : std::uint8_t { kCommon, kFrequent };
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::WordCountVariant> {
  static constexpr std::string_view kKind = "variant";
  static constexpr std::array<std::string_view, 2> kNames = {"common", "frequent"};
};

namespace ls::data {
namespace {

constexpr std::string_view kAnswer = "\nMost often:", kNoise = "...";
constexpr Index kLongestWord = 8, kCodeBytes = 6, kFrequentAsked = 3;

class WordCounts final : public Task {
 public:
  struct Config {
    TextSource text;
    WordCountVariant variant = WordCountVariant::kCommon;
    Index common = 3, common_times = 6, other_times = 1;
    double alpha = 2;
    LengthGrid lengths{{.length = 512}, {}, 200};

    template <class F>
    void fields(F& f) {
      text.fields(f);
      f("variant", variant, {.help = "some words that come more often than others, or ranks"});
      f("common", common, {.help = "common words", .min = 1, .max = 1024});
      f("common_times", common_times, {.help = "times that each comes", .min = 2, .max = 1024});
      f("other_times", other_times, {.help = "times that others come", .min = 1, .max = 1024});
      f.check(common_times > other_times, "common_times", "must be greater than other_times");
      f("alpha", alpha, {.help = "frequent: rank r comes in proportion to r^-alpha", .above = 1});
      lengths.fields(f);
      const std::optional<Index> bad = lengths.first_length([&](Index t) { return t < least(t); });
      f.check(!bad, "length",
              fmt::format("{} is too short for the words that are to be told: {} bytes",
                          bad.value_or(0), least(bad.value_or(0))));
    }
    /// Bytes of the common words in their lines, the question and its answer.
    Index least(Index length) const {
      if (variant == WordCountVariant::kFrequent) {
        return (5 + 4 + 3 + 2 + kFrequentAsked) * (kCodeBytes + 1) + std::ssize(kAnswer) + 1;
      }
      const Index number = std::ssize(std::to_string(length)) + 2;
      return common * common_times * (number + kLongestWord + 1) + std::ssize(kAnswer) +
             common * (kLongestWord + 1) + 1;
    }
  };

  WordCounts(const Config& config, const TaskArgs& args);
  void sample(const ExampleKey& key, const ExampleView& out) const override;

  std::vector<Predictor> predictors() const override {
    const auto answer = [this](const ExampleView& in) {
      answer_questions(in, kAnswer, [this](std::string_view before) { return told(before); });
    };
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

  std::vector<DataIdentity> identity() const override {
    std::vector<DataIdentity> out{text_.corpus().identity()};
    out.back().field = "task.path";
    return out;
  }

 private:
  /// The words that lie in a text, each once.
  static std::vector<std::string> words_of(const std::string& text) {
    std::set<std::string> words;
    std::string word;
    bool whole = true;
    for (const char c : text + " ") {
      if (c >= 'a' && c <= 'z') {
        word += c;
        continue;
      }
      const bool ends = c == ' ' || c == '\n' || c == '.' || c == ',';
      if (whole && ends && word.size() >= 3 && word.size() <= kLongestWord) {
        words.insert(word);
      }
      whole = c == ' ' || c == '\n';
      word.clear();
    }
    return {words.begin(), words.end()};
  }
  std::string common_list(Rng& numbers, Split split, Index room,
                          std::vector<std::string>& answer) const;
  std::string frequent_list(Rng& numbers, Index length, Index room,
                            std::vector<std::string>& answer) const;
  std::string told(std::string_view before) const;

  Config config_;
  Haystack text_;
  std::array<std::vector<std::string>, kNumSplits> words_;
};

WordCounts::WordCounts(const Config& config, const TaskArgs& args)
    : Task("word_counts", args), config_(config), text_(config.text) {
  info_.vocab_in = info_.classes = 256;
  info_.metrics = {"seq_acc", "tok_acc"};
  info_.summary = text_.corpus().summary();
  add_slice(Split::kTrain, config.lengths.slice());
  for (const Slice& slice : config.lengths.test_slices()) {
    add_slice(Split::kValid, slice);
  }
  if (config.variant == WordCountVariant::kFrequent) {
    return;
  }
  constexpr Index kMostRead = 1 << 20;
  for (const Split split : {Split::kTrain, Split::kValid}) {
    Rng from(args.seed, "word_counts/words");
    const Index bytes = std::min(text_.corpus().bytes(split), kMostRead);
    std::vector<std::string>& words = words_[static_cast<std::size_t>(split)];
    words = words_of(text_.draw(from, split, bytes));
    LS_CHECK(std::ssize(words) > 2 * config.common, kConfig,
             "word_counts: the {} text of '{}' has {} different words of 3 to {} small letters, {} "
             "common words need more than {}; give a longer text",
             enum_name(split), config.text.path, words.size(), kLongestWord, config.common,
             2 * config.common);
  }
}

std::string WordCounts::common_list(Rng& numbers, Split split, Index room,
                                    std::vector<std::string>& answer) const {
  const std::vector<std::string>& words = words_[static_cast<std::size_t>(split)];
  const std::vector<Index> order =
      numbers.sample_without_replacement(std::ssize(words), std::ssize(words));
  const Index number = std::ssize(std::to_string(room)) + 3;  // "12. " and the line's end
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < order.size(); ++i) {
    const bool common = std::ssize(answer) < config_.common;
    const std::string& word = words[static_cast<std::size_t>(order[i])];
    const Index times = common ? config_.common_times : config_.other_times;
    room -= times * (number + std::ssize(word));
    if (room < 0) {
      break;
    }
    lines.insert(lines.end(), static_cast<std::size_t>(times), word);
    if (common) {
      answer.push_back(word);
    }
  }
  numbers.shuffle(lines);
  std::ranges::sort(answer, {}, [&](const std::string& word) {
    return std::ranges::find(lines, word) - lines.begin();
  });
  std::string list;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    list += fmt::format("{}. {}\n", i + 1, lines[i]);
  }
  return list;
}

std::string WordCounts::frequent_list(Rng& numbers, Index length, Index room,
                                      std::vector<std::string>& answer) const {
  const Index ranks = std::max<Index>(length / 50, kFrequentAsked + 2);
  double sum = 0;
  for (Index r = 1; r <= ranks; ++r) {
    sum += std::pow(static_cast<double>(r), -config_.alpha);
  }
  // Ranks 1 .. 4 come 5, 4, 3 and 2 times at least, each more often than the next.
  const double words = static_cast<double>(room) / static_cast<double>(kCodeBytes + 1);
  std::vector<std::string> list;
  std::set<std::string> codes;
  Index below = -1;  // times of the rank before
  for (Index r = 1; r <= ranks; ++r) {
    const Index told_behind = std::max<Index>(0, kFrequentAsked + 1 - r);  // of 2, 3, ... times
    auto times = static_cast<Index>(words * std::pow(static_cast<double>(r), -config_.alpha) / sum);
    times = std::max<Index>(times, r <= kFrequentAsked + 1 ? kFrequentAsked + 3 - r : 1);
    if (r <= kFrequentAsked + 1) {  // those behind it that are told of have room
      times = std::min(times, room / (kCodeBytes + 1) - told_behind * (told_behind + 3) / 2);
    }
    if (below >= 0 && r <= kFrequentAsked + 2) {
      times = std::min(times, below - 1);
    }
    below = times;
    std::string code;
    do {
      code.clear();
      for (Index i = 0; i < kCodeBytes; ++i) {
        code += static_cast<char>('a' + numbers.below(26));
      }
    } while (!codes.insert(code).second);
    if (r > 1 && r <= kFrequentAsked + 1) {
      answer.push_back(code);
    }
    for (Index i = 0; i < times; ++i) {
      const std::string& word = r == 1 ? std::string(kNoise) : code;
      room -= std::ssize(word) + 1;
      if (room >= 0) {
        list.push_back(word + " ");
      }
    }
  }
  numbers.shuffle(list);
  std::string text;
  for (const std::string& word : list) {
    text += word;
  }
  return text;
}

void WordCounts::sample(const ExampleKey& key, const ExampleView& out) const {
  Rng numbers = rng(key);
  const bool common = config_.variant == WordCountVariant::kCommon;
  const Index asked = common ? config_.common : kFrequentAsked;
  const Index longest = common ? kLongestWord : kCodeBytes;
  const Index room = key.length - std::ssize(kAnswer) - asked * (longest + 1) - 1;
  std::vector<std::string> answer;
  std::string all = common ? common_list(numbers, key.split, room, answer)
                           : frequent_list(numbers, key.length, room, answer);
  all += kAnswer;
  std::vector<std::pair<Index, Index>> told;
  for (const std::string& word : answer) {
    told.emplace_back(std::ssize(all) + 1, std::ssize(all) + 2 + std::ssize(word));
    all += " " + word;
  }
  all += ".";
  const Index blank = key.length - std::ssize(all);
  all.insert(0, static_cast<std::size_t>(blank), '\n');
  write_bytes(all, out);
  for (const auto& [from, to] : told) {
    label_bytes(all, blank + from, blank + to, out);
  }
}

std::string WordCounts::told(std::string_view before) const {
  std::map<std::string, Index> count;
  std::vector<std::string> order;
  std::string word;
  for (const char c : std::string(before) + " ") {
    if (c >= 'a' && c <= 'z') {
      word += c;
    } else if (!word.empty()) {
      if (++count[word] == 1) {
        order.push_back(word);
      }
      word.clear();
    }
  }
  const bool common = config_.variant == WordCountVariant::kCommon;
  std::vector<std::string> most = order;
  std::ranges::stable_sort(most, std::greater(), [&](const std::string& w) { return count[w]; });
  most.resize(static_cast<std::size_t>(common ? config_.common : kFrequentAsked));
  if (common) {
    std::ranges::sort(most, {}, [&](const std::string& w) {
      return std::ranges::find(order, w) - order.begin();
    });
  }
  std::string answer;
  for (const std::string& w : most) {
    answer += " " + w;
  }
  return answer + ".";
}

LS_REGISTER(Task, WordCounts, "word_counts", "the words that come most in a list (RULER)");

}  // namespace
}  // namespace ls::data
