// What every registered task promises: tests of single tasks are in files of their own.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "data/limits.h"
#include "tests/support/errors.h"
#include "tests/unit/data/data_support.h"

using namespace ls;
using namespace ls::data;

namespace {

/// A config to test. PATH stands for a folder of texts.
struct TaskCase {
  const char* yaml;
  /// Labels are as likely each: this class and so many that follow.
  std::int64_t first_class = 0;
  Index uniform_classes = 0;
  bool exact = true;  ///< labels follow from the inputs
};

const TaskCase kCases[] = {
    {.yaml = "{name: bytes, path: PATH}", .exact = false},
    {"{name: compositional_recall}", 170, 86},
    {"{name: compositional_recall, train: [{side: 2, length: 30}, {side: 4}]}", 170, 86},
    {"{name: copying}", 1, 8},
    {"{name: copying, variant: plain, blanks: 40, test_blanks: [30]}", 1, 8},
    {"{name: copying, variant: lag}", 1, 8},
    {"{name: dyck, labels: close, test: [{shortest: 40, longest: 60}, {shortest: 61, longest: "
     "121}], "
     "train: {shortest: 40}}",
     2, 2},
    {.yaml = "{name: dyck, kinds: 8, depth: 5, train: {shortest: 20, longest: 180}, test: "
             "[{shortest: 181, longest: 360}]}",
     .exact = false},
    {"{name: flip_flop}", 0, 2},
    {.yaml = "{name: flip_flop, labels: all}", .exact = false},
    {"{name: hash_hop}", 2, 256},
    {"{name: hash_hop, symbols: 26, hash_length: 16, chain_of_thought: true, train: [{chains: 4, "
     "hops: 3}]}",
     3, 26},
    {"{name: induction}", 0, 15},
    {"{name: induction, vocab: 8, remember: 3, twice: 0.5, length: 24, max_length: 40}", 0, 7},
    {.yaml = "{name: in_context_language}", .exact = false},
    {.yaml =
         "{name: in_context_language, symbols: 6, states: {least: 3, most: 4}, alphabet: {least: "
         "3, most: 4}, words: {least: 6, most: 6}, word_length: {most: 8}, out: {most: 2}}",
     .exact = false},
    {"{name: modular_arithmetic}", 0, 5},
    {"{name: modular_arithmetic, variant: cycle, labels: last}", 0, 5},
    {"{name: modular_arithmetic, variant: expression, length: 9, max_length: 40}"},
    {"{name: modular_arithmetic, variant: brackets, length: 19, max_length: 40, times: true}"},
    {"{name: mqar}", 4096, 4096},
    {"{name: mqar, vocab: 64, passes: 2, random_non_queries: true}", 32, 32},
    {"{name: mqar, vocab: 64, variant: forgetting}", 32, 32},
    {"{name: mqar, vocab: 64, variant: continuous, train: [{pairs: 8}]}", 0, 32},
    {"{name: mqar, vocab: 64, variant: continuous_forgetting, train: [{pairs: 8}]}", 0, 32},
    {"{name: mqar, vocab: 64, protocol: zoology, variant: forgetting}", 32, 32},
    {"{name: mqar, vocab: 64, protocol: zoology, variant: continuous, mapping: global, "
     "train: [{pairs: 8}]}",
     0, 32},
    {"{name: parity}", 0, 2},
    {"{name: parity, labels: last}", 0, 2},
    {"{name: passkey}", 0, 10},
    {"{name: passkey, digits: 4, vocab: 13, length: 64, test_lengths: [64, 90]}", 0, 10},
    {.yaml = "{name: passkey, labels: all, length: 64}", .exact = false},
    {"{name: passkey, form: text, length: 300, test_lengths: [300, 1000]}", '0', 10},
    {"{name: permutations}", 0, 6},
    {"{name: permutations, group: a5}", 0, 60},
    {"{name: permutations, group: s5, inputs: swaps_and_cycles}"},
    {"{name: permutations, group: z60}", 0, 60},
    {"{name: regular}"},
    {"{name: regular, nesting: 12}"},
    {"{name: regular, language: tomita3}"},
    {"{name: regular, language: tomita4}"},
    {"{name: regular, language: tomita5}"},
    {"{name: regular, language: tomita6}"},
    {"{name: regular, language: tomita7, test_lengths: [1000]}"},
    {.yaml = "{name: regression}", .exact = false},
    {.yaml = "{name: regression, dims: 20, nonzero: 3, noise: 0.5}", .exact = false},
    {.yaml = "{name: needle, path: PATH}"},
    {.yaml = "{name: needle, path: PATH, value: code, keys: 4, test_depths: [0.3]}"},
    {.yaml = "{name: needle, path: PATH, values: 4, test_depths: [0.3]}"},
    {.yaml = "{name: needle, path: PATH, keys: 4, queries: 4, value: words, length: 1024}"},
    {.yaml = "{name: needle, path: PATH, haystack: needles}"},
    {.yaml = "{name: babilong, path: PATH}"},
    {.yaml = "{name: babilong, path: PATH, question: qa2, length: 1024}"},
    {.yaml = "{name: babilong, path: PATH, question: qa3, least_facts: 4, most_facts: 12, length: "
             "1024, max_length: 1100}"},
    {.yaml = "{name: noun_lists, path: PATH}", .exact = false},
    {.yaml = "{name: variable_tracking, path: PATH}"},
    {.yaml = "{name: variable_tracking, path: PATH, chains: 3, hops: 2}"},
    {.yaml = "{name: word_counts, path: PATH}"},
    {.yaml = "{name: word_counts, path: PATH, variant: frequent}"},
    {.yaml = "{name: random_tokens}", .first_class = 0, .uniform_classes = 256, .exact = false},
    {"{name: set_disjointness}", 4, 124},
    {"{name: set_disjointness, passes: 2}", 4, 124},
};

struct BadConfig {
  const char *yaml, *says;
};

const BadConfig kBad[] = {
    {"{name: bytes, path: PATH, length: 100000}", "a shorter length"},
    {"{name: compositional_recall, train: [{side: 10}]}", "needs 10 tokens of each kind of key"},
    {"{name: compositional_recall, train: [{side: 3, length: 50}]}", "at least 54 tokens"},
    {"{name: copying, variant: lag, memorize: 3, blanks: 3}", "must be greater than memorize"},
    {"{name: dyck, train: {shortest: 7, longest: 7}}", "no even length"},
    {"{name: dyck, depth: 1024, test: [{longest: 1000000}]}", "lower depth or the lengths"},
    {"{name: flip_flop, length: 7}", "7 must be even and at least 4"},
    {"{name: flip_flop, test_ignore: [0.5, 0.5]}", "are both T64.I50"},
    {"{name: hash_hop, symbols: 8}", "8 chains of 1 hops need 16 different hashes, 8 symbols"},
    {"{name: induction, remember: 40}", "64 is too short"},
    {"{name: in_context_language, out: {least: 4, most: 5}}", "needs as many letters"},
    {"{name: in_context_language, alphabet: {least: 1, most: 1}, out: {most: 1}, states: {least: "
     "2, "
     "most: 2}, symbols: 2}",
     "too few different automata"},
    {"{name: modular_arithmetic, variant: brackets, length: 1}", "1 is too short"},
    {"{name: needle, path: PATH, length: 60}", "60 is too short: needles and questions take"},
    {"{name: needle, path: PATH, length: 1000000}", "raise valid_share"},
    {"{name: babilong, path: PATH, length: 100}", "lower most_facts"},
    {"{name: babilong, path: PATH, question: qa3}", "must be at least 3 for qa3"},
    {"{name: noun_lists, path: PATH, nouns: 100}", "too short for two lists of 100 nouns"},
    {"{name: variable_tracking, path: PATH, length: 99}", "99 is too short: 1 chains of 4 hops"},
    {"{name: word_counts, path: PATH, length: 100}", "too short for the words"},
    {"{name: mqar, train: [{pairs: 5000}]}", "lower pairs or raise vocab"},
    {"{name: parity, length: 8, max_length: 7}", "must be at least length"},
    {"{name: passkey, length: 16}", "16 is too short for a key of 5 digits"},
    {"{name: permutations, group: a5, inputs: swaps}", "swaps are elements of the groups"},
    {"{name: random_tokens, vocab: 1}", "vocab"},
    {"{name: regression, nonzero: 9}", "must be at most dims"},
    {"{name: regular, length: 2000000}", "is supported"},
    {"{name: regular, nesting: 1024, length: 1000000}", "lower nesting or the lengths"},
    {"{name: set_disjointness, vocab: 16}", "raise vocab"},
};

const std::string& text_path() {
  static const Sentences sentences;
  return sentences.path;
}

std::string with_path(std::string yaml) {
  if (const std::size_t at = yaml.find("PATH"); at != std::string::npos) {
    yaml.replace(at, 4, text_path());
  }
  return yaml;
}

std::unique_ptr<Task> make(const std::string& yaml, std::uint64_t seed = 1) {
  return task_from(with_path(yaml), {.seed = seed});
}

void for_each_slice(const Task& task, const std::function<void(ExampleKey)>& f) {
  for (const Split split : {Split::kTrain, Split::kValid, Split::kTest}) {
    for (Index slice = 0; slice < std::ssize(task.slices(split)); ++slice) {
      const Slice& s = task.slices(split)[static_cast<std::size_t>(slice)];
      f({.split = split, .slice = slice, .length = s.length});
      if (s.max_length > s.length) {
        f({.split = split, .slice = slice, .length = s.max_length});
      }
    }
  }
}

std::vector<std::size_t> labelled(const Example& e) {
  std::vector<std::size_t> at;
  for (std::size_t t = 0; t < e.labels.size(); ++t) {
    if (e.labels[t] != kIgnore) {
      at.push_back(t);
    }
  }
  return at;
}

/// What a predictor says of the first `tokens` inputs of an example, knowing which are asked for.
std::vector<std::int64_t> answers(const Predictor& predictor, const Task& task, Example e,
                                  std::size_t tokens) {
  for (std::int64_t& label : e.labels) {
    label = label == kIgnore ? kIgnore : 0;
  }
  e.tokens.resize(e.tokens.empty() ? 0 : tokens);
  e.vectors.resize(e.vectors.empty() ? 0
                                     : tokens * static_cast<std::size_t>(task.info().vector_width));
  e.labels.resize(tokens);
  e.tags.resize(tokens);
  e.legal.resize(e.legal.empty() ? 0 : tokens);
  predictor.answer({e.tokens, e.vectors, e.labels, e.tags, &e.starts, e.legal});
  return e.labels;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("tasks: every registered one has a config here, and one that is refused") {
    const auto names = [](const char* yaml) {
      return [yaml](const std::string& task) {
        const std::string text = std::string(yaml).substr(7);
        return text.starts_with(task) && (text[task.size()] == ',' || text[task.size()] == '}');
      };
    };
    for (const std::string& task : Task::registry().names()) {
      CAPTURE(task);
      CHECK(!Task::registry().help(task).empty());
      CHECK(std::ranges::any_of(kCases, [&](const TaskCase& c) { return names(c.yaml)(task); }));
      CHECK(std::ranges::any_of(kBad, [&](const BadConfig& c) { return names(c.yaml)(task); }));
    }
    for (const BadConfig& bad : kBad) {
      const std::string message = ls::test::message([&] { make(bad.yaml); });
      CAPTURE(std::string(bad.yaml));
      CAPTURE(message);
      CHECK(ls::test::says(message, bad.says));
    }
  }

  TEST_CASE("tasks: a key gives one example, no two keys the same, and labels are there") {
    for (const TaskCase& c : kCases) {
      CAPTURE(std::string(c.yaml));
      const auto task = make(c.yaml), twin = make(c.yaml), other = make(c.yaml, 2);
      const TaskInfo& info = task->info();
      CHECK(info.classes > 1);
      CHECK((info.vocab_in > 0) != (info.vector_width > 0));
      CHECK(!info.metrics.empty());
      std::set<std::pair<std::vector<std::int64_t>, std::vector<float>>> seen;
      for_each_slice(*task, [&](ExampleKey key) {
        CHECK(key.length <= kMaxLength);
        for (key.index = 0; key.index < 20; ++key.index) {
          const Example e = example(*task, key);
          CHECK(e == example(*twin, key));
          CHECK(!labelled(e).empty());
          if (c.yaml == std::string("{name: bytes, path: PATH}")) {
            continue;  // windows of one text; bytes_test has what they promise
          }
          CHECK(!(e == example(*other, key)));
          CHECK(seen.insert({e.tokens, e.vectors}).second);
        }
      });
    }
  }

  TEST_CASE("tasks: labels follow from the inputs up to their own") {
    for (const TaskCase& c : kCases) {
      CAPTURE(std::string(c.yaml));
      const auto task = make(c.yaml);
      const std::vector<Predictor> predictors = task->predictors();
      const auto solver = std::ranges::find_if(predictors, &Predictor::exact);
      REQUIRE((solver != predictors.end()) == c.exact);
      if (!c.exact) {
        continue;
      }
      for_each_slice(*task, [&](ExampleKey key) {
        for (key.index = 0; key.index < 20; ++key.index) {
          const Example e = example(*task, key);
          REQUIRE(answers(*solver, *task, e, e.labels.size()) == e.labels);
          const std::vector<std::size_t> asked = labelled(e);
          for (const std::size_t t : {asked.front(), asked[asked.size() / 2]}) {
            REQUIRE(answers(*solver, *task, e, t + 1)[t] == e.labels[t]);
          }
        }
      });
    }
  }

  TEST_CASE("tasks: labels are drawn as stated") {
    for (const TaskCase& c : kCases) {
      if (c.uniform_classes == 0) {
        continue;
      }
      CAPTURE(std::string(c.yaml));
      const auto task = make(c.yaml);
      // One label an example, the last: several of one may depend on one another.
      constexpr Index kExamples = 4000;
      std::vector<double> count(static_cast<std::size_t>(task->info().classes));
      for (Index i = 0; i < kExamples; ++i) {
        const Index slice = i % std::ssize(task->slices(Split::kTrain));
        const Example e = example(*task, {.slice = slice, .index = i});
        ++count[static_cast<std::size_t>(e.labels[labelled(e).back()])];
      }
      const double n = static_cast<double>(c.uniform_classes), mean = kExamples / n;
      double inside = 0, chi_square = 0;
      for (std::size_t k = 0; k < static_cast<std::size_t>(c.uniform_classes); ++k) {
        const double seen = count[static_cast<std::size_t>(c.first_class) + k];
        inside += seen;
        chi_square += (seen - mean) * (seen - mean) / mean;
      }
      CHECK(inside == kExamples);
      CHECK(chi_square < n - 1 + 5 * std::sqrt(2 * (n - 1)) + 10);
    }
  }

  TEST_CASE("tasks: the rows of a batch are the same on any number of ranks") {
    for (const TaskCase& c : kCases) {
      CAPTURE(std::string(c.yaml));
      const auto task = make(c.yaml);
      for (const Split split : {Split::kTrain, Split::kValid}) {
        const BatcherOptions whole{.split = split, .batch = 7, .seed = 3};
        const Batch want = Batcher(*task, whole).make(1);
        for (const Index ranks : {2, 3, 8}) {
          for (Index rank = 0; rank < ranks; ++rank) {
            BatcherOptions mine = whole;
            mine.rank = rank;
            mine.ranks = ranks;
            const Batch got = Batcher(*task, mine).make(1);
            const Batch part = want.pieces(ranks)[static_cast<std::size_t>(rank)];
            CHECK(same(got.tokens, part.tokens));
            CHECK(same(got.vectors, part.vectors));
            CHECK(same(got.labels, part.labels));
            CHECK(same(got.tags, part.tags));
            CHECK(same(got.legal, part.legal));
          }
        }
      }
    }
  }
}
