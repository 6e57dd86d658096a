// In-context language learning: every example has a random automaton of its own and shows words of
// its language; each next symbol is to be told from the words so far.
// Source: Akyürek et al., "In-context language learning", 2024 (arXiv 2401.12973), and the
// generator of its repository, seq_icl, src/dataloaders/dfa.py: 4 .. 12 states, 4 .. 18 symbols,
// from each state 1 .. 3 symbols to as many other states, every state accepting; made minimal; 10
// .. 19 words of 1 .. 49 symbols, each drawn uniformly from those that may follow, "|" between
// words. Answers count as legal when the automaton allows them. Where a word begins or a text ends
// nothing is labelled, as there. Automata of training, validation and test are disjoint: a hash of
// the minimal automaton says to which of them it belongs, eight, one and one in ten.
#include <algorithm>
#include <map>
#include <optional>

#include "core/base/error.h"
#include "core/config/fields.h"
#include "data/task.h"

namespace ls::data {
namespace {

struct LanguageRange {
  Index least = 1, most = 1;

  template <class F>
  void fields(F& f) {
    f("least", least, {.help = "smallest", .min = 1, .max = 1 << 16});
    f("most", most, {.help = "greatest", .min = 1, .max = 1 << 16});
    f.check(most >= least, "most", "must be at least least");
  }
  Index draw(Rng& rng) const { return least + rng.below(most - least + 1); }
};

/// next[state] has pairs of a symbol and where it leads, by symbol. State 0 is the start.
using Transitions = std::vector<std::map<Index, Index>>;

class InContextLanguage final : public Task {
 public:
  struct Config {
    Index symbols = 18;
    LanguageRange states{4, 12}, alphabet{4, 18}, out{1, 3}, words{10, 19}, word_length{1, 49};
    Index examples = 500;

    template <class F>
    void fields(F& f) {
      f("symbols", symbols,
        {.help = "letters that alphabets are drawn from; '|' and '.' come after",
         .min = 2,
         .max = 62});
      f("states", states, {.help = "states of an automaton before it is made minimal"});
      f("alphabet", alphabet, {.help = "letters of an automaton"});
      f("out", out, {.help = "letters that may follow in a state"});
      f("words", words, {.help = "words of an example"});
      f("word_length", word_length, {.help = "letters of a word"});
      f("examples", examples, {.help = "examples in validation and in test", .min = 1});
      f.check(alphabet.most <= symbols, "alphabet",
              fmt::format("there are only {} letters; raise symbols", symbols));
      f.check(out.most <= alphabet.least && out.most < states.least, "out",
              "needs as many letters in the smallest alphabet and as many other states");
      f.check(states.most <= 64, "states", "at most 64 are supported");
    }
    Index length() const { return words.most * (word_length.most + 1); }
  };

  InContextLanguage(const Config& config, const TaskArgs& args)
      : Task("in_context_language", args), config_(config) {
    info_.vocab_in = info_.classes = config.symbols + 2;
    info_.legal_sets = true;
    info_.metrics = {"legal_acc", "tok_acc"};
    for (const Split split : {Split::kTrain, Split::kValid, Split::kTest}) {
      Rng numbers(args.seed, "in_context_language/trial");
      LS_CHECK(automaton(numbers, split).has_value(), kConfig,
               "in_context_language: too few different automata to keep training, validation and "
               "test apart; raise states, alphabet or out");
    }
    const Slice slice{.name = fmt::format("T{}", config.length()), .length = config.length()};
    add_slice(Split::kTrain, slice);
    Slice test = slice;
    test.examples = config.examples;
    add_test_slices({test});
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    const std::optional<Transitions> found = automaton(numbers, key.split);
    LS_CHECK(found.has_value(), kInternal, "no automaton of the split in {} draws", kDraws);
    const Transitions& next = *found;
    const Index end = config_.symbols + 1;
    std::ranges::fill(out.tokens, end);
    std::size_t t = 0;
    for (Index word = config_.words.draw(numbers); word > 0; --word) {
      Index state = 0;
      for (Index left = config_.word_length.draw(numbers); left > 0; --left, ++t) {
        const auto& may = next[static_cast<std::size_t>(state)];
        const auto step = std::next(may.begin(), numbers.below(std::ssize(may)));
        out.tokens[t] = step->first;
        if (t > 0) {
          out.labels[t - 1] = step->first;
          for (const auto& [symbol, to] : may) {
            out.legal[t - 1] |= std::uint64_t{1} << symbol;
          }
        }
        state = step->second;
      }
      if (word > 1) {
        out.tokens[t++] = config_.symbols;
      }
    }
  }

 private:
  static constexpr Index kDraws = 10'000;

  /// A minimal automaton of the split, the first of as many that are drawn.
  std::optional<Transitions> automaton(Rng& numbers, Split split) const {
    for (Index i = 0; i < kDraws; ++i) {
      Transitions found = minimal(draw(numbers));
      std::uint64_t hash = 0;
      for (const auto& may : found) {
        hash = mix64(hash ^ may.size());
        for (const auto& [symbol, to] : may) {
          hash = mix64(hash ^ static_cast<std::uint64_t>(symbol << 32 ^ to));
        }
      }
      const std::uint64_t tenth = hash % 10;
      const Split its = tenth < 8 ? Split::kTrain : tenth == 8 ? Split::kValid : Split::kTest;
      if (its == split) {
        return found;
      }
    }
    return std::nullopt;
  }

  Transitions draw(Rng& numbers) const {
    const Index states = config_.states.draw(numbers);
    const std::vector<Index> letters =
        numbers.sample_without_replacement(config_.symbols, config_.alphabet.draw(numbers));
    Transitions next(static_cast<std::size_t>(states));
    for (Index from = 0; from < states; ++from) {
      const Index out = config_.out.draw(numbers);
      const std::vector<Index> symbol =
          numbers.sample_without_replacement(std::ssize(letters), out);
      const std::vector<Index> other = numbers.sample_without_replacement(states - 1, out);
      for (std::size_t i = 0; i < other.size(); ++i) {
        next[static_cast<std::size_t>(from)][letters[static_cast<std::size_t>(symbol[i])]] =
            other[i] + (other[i] >= from ? 1 : 0);
      }
    }
    return next;
  }

  /// States with the same language become one, numbered as symbols reach them from the start, so
  /// that automata of one language are equal. All states accept.
  static Transitions minimal(const Transitions& next) {
    // Moore's refinement: states of one kind have the same symbols to the same kinds.
    std::vector<Index> kind(next.size());
    for (std::size_t kinds = 0, before = 0;; before = kinds) {
      std::map<std::vector<Index>, Index> number;
      std::vector<Index> finer;
      for (const auto& may : next) {
        std::vector<Index> sign;
        for (const auto& [symbol, to] : may) {
          sign.push_back(symbol);
          sign.push_back(kind[static_cast<std::size_t>(to)]);
        }
        finer.push_back(number.emplace(sign, std::ssize(number)).first->second);
      }
      kinds = number.size();
      kind = finer;
      if (kinds == before) {
        break;
      }
    }
    std::map<Index, Index> place{{kind[0], 0}};
    std::vector<std::size_t> order{0};
    Transitions out;
    for (std::size_t i = 0; i < order.size(); ++i) {
      out.emplace_back();
      for (const auto& [symbol, to] : next[order[i]]) {
        const auto at = static_cast<std::size_t>(to);
        const auto [it, fresh] = place.emplace(kind[at], std::ssize(place));
        if (fresh) {
          order.push_back(at);
        }
        out.back()[symbol] = it->second;
      }
    }
    return out;
  }

  Config config_;
};

LS_REGISTER(Task, InContextLanguage, "in_context_language",
            "next symbols of a language that only the example shows");

}  // namespace
}  // namespace ls::data
