// Repeated noun lists: a list of nouns, text of the user between, then a second list: the same
// nouns in the same order, the same in another order, or others. How much less surprising is the
// second than the first?
// Source: Armeni, Honey and Linzen, "Characterizing verbatim short-term memory in neural language
// models", 2022 (arXiv 2210.13569): lists of 3, 5, 7 and 10 nouns, text of 8 to 400 tokens between.
// Both lists are labelled and tagged; "loss/second" over "loss/first" is the published score (there
// of medians) for each condition, which is a setting. In training the condition is random, by
// `repeat_share`, the rest half and half.
#include <algorithm>

#include "core/base/error.h"
#include "data/bytes/text_source.h"
#include "data/length_plan.h"
#include "data/task.h"

namespace ls::data {
namespace {

constexpr Index kConditions = 3;
constexpr std::array<std::string_view, kConditions> kCondition = {"repeat", "permute", "new"};
constexpr std::string_view kBefore = "She wrote down a list: ", kAgain = "\nShe read the list: ";
constexpr Index kLongestNoun = 10;  // with what follows it

class NounLists final : public Task {
 public:
  struct Config {
    TextSource text;
    Index nouns = 5;
    double repeat_share = 0.5;
    LengthGrid lengths{{.length = 256}, {}, 200};

    template <class F>
    void fields(F& f) {
      text.fields(f);
      f("nouns", nouns, {.help = "nouns of a list", .min = 1, .max = 100});
      f("repeat_share", repeat_share,
        {.help = "share of the training examples whose lists are the same", .min = 0, .max = 1});
      lengths.fields(f);
      const Index bytes = std::ssize(kBefore) + std::ssize(kAgain) + 2 * nouns * kLongestNoun + 1;
      const std::optional<Index> bad = lengths.first_length([&](Index t) { return t < bytes; });
      f.check(!bad, "length",
              fmt::format("{} is too short for two lists of {} nouns: up to {} bytes",
                          bad.value_or(0), nouns, bytes));
    }
  };

  NounLists(const Config& config, const TaskArgs& args)
      : Task("noun_lists", args), config_(config), text_(config.text) {
    info_.vocab_in = info_.classes = 256;
    info_.metrics = {"tok_acc", "bpb"};
    info_.tags = {"first", "second"};
    info_.tag_losses = true;
    info_.summary = text_.corpus().summary();
    add_slice(Split::kTrain, config.lengths.slice());
    for (const Index length : config.lengths.tested()) {
      for (Index c = 0; c < kConditions; ++c) {
        add_slice(Split::kValid,
                  {.name = fmt::format("T{}.{}", length, kCondition[static_cast<std::size_t>(c)]),
                   .setting = {{"nouns", config.nouns}, {"condition", c}},
                   .length = length,
                   .examples = config.lengths.test_examples});
      }
    }
    for (const Split split : {Split::kTrain, Split::kValid}) {
      for (const Slice& slice : slices(split)) {
        text_.check_room("noun_lists", split, std::max(slice.length, slice.max_length));
      }
    }
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    const Index n = config_.nouns;
    const bool repeats = numbers.bernoulli(config_.repeat_share);
    const Index other = 1 + numbers.below(2);
    const Index condition = key.split != Split::kTrain ? key.slice % kConditions
                            : repeats                  ? 0
                                                       : other;
    const std::vector<Index> drawn = numbers.sample_without_replacement(std::ssize(nouns()), 2 * n);
    std::vector<Index> first(drawn.begin(), drawn.begin() + n), second = first;
    if (condition == 1) {
      numbers.shuffle(second);
    } else if (condition == 2) {
      second.assign(drawn.begin() + n, drawn.end());
    }
    const std::string a = list(first), b = list(second);
    const Index left =
        key.length - std::ssize(kBefore) - std::ssize(kAgain) - std::ssize(a) - std::ssize(b);
    std::string all = std::string(kBefore) + a + text_.draw(numbers, key.split, left);
    all += std::string(kAgain) + b;
    write_bytes(all, out);
    mark(all, std::ssize(kBefore), std::ssize(a), 1, out);
    mark(all, key.length - std::ssize(b), std::ssize(b), 2, out);
  }

  std::vector<DataIdentity> identity() const override {
    std::vector<DataIdentity> out{text_.corpus().identity()};
    out.back().field = "task.path";
    return out;
  }

 private:
  /// "otter, plum, harp.\n"
  static std::string list(const std::vector<Index>& which) {
    std::string text;
    for (const Index i : which) {
      text += (text.empty() ? "" : ", ") + std::string(nouns()[static_cast<std::size_t>(i)]);
    }
    return text + ".\n";
  }
  static void mark(const std::string& all, Index from, Index bytes, std::uint8_t tag,
                   const ExampleView& out) {
    label_bytes(all, from, from + bytes, out);
    std::fill_n(out.tags.begin() + from - 1, bytes, tag);
  }

  Config config_;
  Haystack text_;
};

LS_REGISTER(Task, NounLists, "noun_lists", "a list of nouns that comes again after a text");

}  // namespace
}  // namespace ls::data
