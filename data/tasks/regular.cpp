// Regular languages, told by what may come next: at every symbol the label is the set of symbols
// that may follow, and whether the string may end here, as one class.
// Sources: Bhattamishra et al., "On the ability and limitations of transformers to recognize formal
// languages", 2020 (arXiv 2009.11264), whose models tell this set; Tomita, 1982, for his seven.
// Star-free: D_n = (a D_(n-1) b)*, D_0 empty (depth in `nesting`), and Tomita 1, 2, 4 and 7;
// Tomita 3, 5 and 6, (aa)* and (abab)* need modular counting and are controls. Strings are drawn
// uniformly from the beginnings of strings of the language that have the given length.
#include <algorithm>
#include <bit>

#include "data/length_plan.h"
#include "data/path_sums.h"
#include "data/task.h"

namespace ls::data {
namespace {
enum class Language : std::uint8_t {
  kDn,
  kTomita1,
  kTomita2,
  kTomita3,
  kTomita4,
  kTomita5,
  kTomita6,
  kTomita7,
  kAA,
  kABAB
};
}  // namespace
}  // namespace ls::data

template <>
struct ls::EnumNames<ls::data::Language> {
  static constexpr std::string_view kKind = "language";
  static constexpr std::array<std::string_view, 10> kNames = {
      "dn",      "tomita1", "tomita2", "tomita3", "tomita4",
      "tomita5", "tomita6", "tomita7", "aa",      "abab"};
};

namespace ls::data {
namespace {

/// Of two symbols. State 0 is the start; no state is dead.
struct Automaton {
  struct State {
    Index next[2] = {-1, -1};  // -1: the symbol may not come
    bool accepts = false;
  };
  std::vector<State> states;
};

Automaton automaton_of(Language language, Index nesting) {
  constexpr Index no = -1;
  switch (language) {
    case Language::kTomita1:
      return {{{{no, 0}, true}}};  // 1*
    case Language::kTomita2:
      return {{{{no, 1}, true}, {{0, no}, false}}};  // (10)*
    // No odd run of 1 followed by an odd run of 0, in the end or before a 1.
    case Language::kTomita3:
      return {{{{0, 1}, true}, {{2, 0}, true}, {{3, no}, false}, {{2, 1}, true}}};
    case Language::kTomita4:  // no 000
      return {{{{1, 0}, true}, {{2, 0}, true}, {{no, 0}, true}}};
    case Language::kTomita5:  // even numbers of 0 and of 1
      return {{{{1, 2}, true}, {{0, 3}, false}, {{3, 0}, false}, {{2, 1}, false}}};
    case Language::kTomita6:  // as many 0 as 1, modulo 3
      return {{{{1, 2}, true}, {{2, 0}, false}, {{0, 1}, false}}};
    case Language::kTomita7:  // 0*1*0*1*
      return {{{{0, 1}, true}, {{2, 1}, true}, {{2, 3}, true}, {{no, 3}, true}}};
    case Language::kAA:
      return {{{{1, no}, true}, {{0, no}, false}}};
    case Language::kABAB:
      return {{{{1, no}, true}, {{no, 2}, false}, {{3, no}, false}, {{no, 0}, false}}};
    case Language::kDn:
      break;
  }
  Automaton dn;
  for (Index open = 0; open <= nesting; ++open) {
    dn.states.push_back({{open < nesting ? open + 1 : no, open > 0 ? open - 1 : no}, open == 0});
  }
  return dn;
}

class Regular final : public Task {
 public:
  struct Config {
    Language language = Language::kDn;
    Index nesting = 2;
    LengthGrid lengths{{.length = 50}, {50, 100, 400}};

    template <class F>
    void fields(F& f) {
      f("language", language,
        {.help =
             "dn, tomita1, 2, 4 and 7 are star-free, the others count modulo a number; tomita1, "
             "tomita2, aa and abab have one string of each length, so only other lengths than "
             "those of training test anything"});
      f("nesting", nesting, {.help = "n of dn", .min = 1, .max = 1 << 10});
      lengths.fields(f);
      f.check(lengths.longest() <= kLongest &&
                  !lengths.first_length([](Index t) { return t > kLongest; }),
              "length", fmt::format("at most {} is supported", kLongest));
      const Index sums = language == Language::kDn ? (longest() + 1) * (nesting + 1) : 0;
      f.check(sums <= PathSums::kMostSums, "nesting",
              fmt::format("strings of {} symbols and nesting {} take a table of {} sums, at most "
                          "{} are supported; lower nesting or the lengths",
                          longest(), nesting, sums, PathSums::kMostSums));
    }
    Index longest() const {
      return std::max(lengths.longest(), std::ranges::max(lengths.tested()));
    }
    static constexpr Index kLongest = 1 << 20;
  };

  Regular(const Config& config, const TaskArgs& args)
      : Task("regular", args),
        automaton_(automaton_of(config.language, config.nesting)),
        paths_(edges(automaton_), std::vector<double>(automaton_.states.size(), 1),
               config.longest()) {
    info_.vocab_in = 2;
    info_.classes = 8;
    info_.metrics = {"seq_acc", "tok_acc"};
    info_.tags = {"may_end", "may_not"};
    add_slice(Split::kTrain, config.lengths.slice());
    add_test_slices(config.lengths.test_slices());
  }

  void sample(const ExampleKey& key, const ExampleView& out) const override {
    Rng numbers = rng(key);
    Index state = 0;
    for (Index t = 0; t < key.length; ++t) {
      const Edge& step = paths_.draw(numbers, key.length - t, state);
      state = step.to;
      const auto place = static_cast<std::size_t>(t);
      out.tokens[place] = step.symbol;
      out.labels[place] = may_follow(state);
      out.tags[place] = automaton_.states[static_cast<std::size_t>(state)].accepts ? 1 : 2;
    }
  }

  std::vector<Predictor> predictors() const override {
    const auto answer = [this](const ExampleView& in) {
      Index state = 0;
      for (std::size_t t = 0; t < in.tokens.size(); ++t) {
        state = automaton_.states[static_cast<std::size_t>(state)].next[in.tokens[t]];
        if (in.labels[t] != kIgnore) {
          in.labels[t] = may_follow(state);
        }
      }
    };
    return {{.name = "exact", .exact = true, .answer = answer}};
  }

 private:
  static std::vector<Edge> edges(const Automaton& automaton) {
    std::vector<Edge> edges;
    for (Index from = 0; from < std::ssize(automaton.states); ++from) {
      for (const Index symbol : {0, 1}) {
        const Index to = automaton.states[static_cast<std::size_t>(from)].next[symbol];
        if (to >= 0) {
          edges.push_back({.from = from, .to = to, .symbol = symbol});
        }
      }
    }
    return edges;
  }
  /// Bits: symbol 0 may follow, symbol 1 may, the string may end.
  std::int64_t may_follow(Index state) const {
    const Automaton::State& s = automaton_.states[static_cast<std::size_t>(state)];
    return (s.next[0] >= 0 ? 1 : 0) + (s.next[1] >= 0 ? 2 : 0) + (s.accepts ? 4 : 0);
  }

  Automaton automaton_;
  PathSums paths_;
};

LS_REGISTER(Task, Regular, "regular", "what may come next in a regular (star-free) language");

}  // namespace
}  // namespace ls::data
