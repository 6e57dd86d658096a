// What single tasks of languages and in-context learning promise besides what all do.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <map>
#include <set>

#include "data/path_sums.h"
#include "tests/unit/data/data_support.h"

using namespace ls;
using namespace ls::data;

TEST_SUITE("unit") {
  TEST_CASE("path sums: paths are counted, and drawn by their weights, at any length") {
    // Words over a and b without bb: Fibonacci numbers.
    const PathSums words({{0, 0, 0}, {0, 1, 1}, {1, 0, 0}}, {1, 1}, 3000);
    CHECK(std::exp(words.log_sum(3, 0)) == doctest::Approx(5));
    CHECK(std::exp(words.log_sum(10, 0)) == doctest::Approx(144));
    CHECK(words.log_sum(3000, 0) - words.log_sum(2999, 0) ==
          doctest::Approx(std::log((1 + std::sqrt(5)) / 2)));
    std::map<Index, double> seen;
    for (std::uint64_t i = 0; i < 5000; ++i) {
      Rng rng(3, "test", i);
      Index state = 0, word = 0;
      for (Index left = 3; left > 0; --left) {
        const Edge& edge = words.draw(rng, left, state);
        state = edge.to;
        word = 2 * word + edge.symbol;
      }
      ++seen[word];
    }
    CHECK(seen.size() == 5);
    for (const auto& [word, times] : seen) {
      CHECK(std::abs(times - 1000) < 5 * std::sqrt(800));
    }
    const PathSums dead({{0, 1, 0}}, {0, 0}, 4);
    CHECK(std::isinf(dead.log_sum(1, 0)));
  }

  TEST_CASE(
      "dyck: strings are balanced, as deep as allowed and as long as the process makes them") {
    const auto task = task_from(
        "{name: dyck, kinds: 3, depth: 2, train: {shortest: 2, longest: 8}, test: [{shortest: 3, "
        "longest: 9}]}");
    std::map<Index, double> lengths;
    Index deepest = 0;
    constexpr Index kExamples = 8000;
    for (Index i = 0; i < kExamples; ++i) {
      const Example e = example(*task, {.index = i});
      std::vector<std::int64_t> open;
      Index length = 0;
      for (; length < 8 && e.tokens[static_cast<std::size_t>(length)] < 6; ++length) {
        const std::int64_t token = e.tokens[static_cast<std::size_t>(length)];
        if (token < 3) {
          open.push_back(token);
        } else {
          REQUIRE((!open.empty() && open.back() == token - 3));
          open.pop_back();
        }
        deepest = std::max(deepest, static_cast<Index>(open.size()));
        const auto t = static_cast<std::size_t>(length);
        REQUIRE(e.labels[t] == (t + 1 < 8 ? e.tokens[t + 1] : 6));
      }
      REQUIRE(open.empty());
      ++lengths[length];
    }
    CHECK(deepest == 2);
    // Probability of a string of 2n brackets: with r(n) of returns to the ground in 2n steps, each
    // 1/2 there, 1/2 at depth 1, 1 at depth 2, and 1/2 to end.
    // One excursion of 2j steps: (1/2)^j (of up, down-ups, down), j >= 1: 1/2 * (1/2)^(j-1) * 1/2.
    std::vector<double> ground(5);
    ground[0] = 1;
    for (std::size_t n = 1; n < 5; ++n) {
      for (std::size_t j = 1; j <= n; ++j) {
        ground[n] += std::pow(0.5, static_cast<double>(j) + 1) * ground[n - j];
      }
    }
    const double sum = ground[1] + ground[2] + ground[3] + ground[4];
    for (std::size_t n = 1; n < 5; ++n) {
      const double p = ground[n] / sum;
      CHECK(std::abs(lengths[static_cast<Index>(2 * n)] - kExamples * p) <
            5 * std::sqrt(kExamples * p * (1 - p)));
    }
  }

  TEST_CASE("regular: tomita 7 changes its symbol three times at most, anywhere") {
    const auto task = task_from("{name: regular, language: tomita7, length: 30}");
    std::vector<double> changes(4);
    for (Index i = 0; i < 1000; ++i) {
      const Example e = example(*task, {.index = i});
      std::size_t count = e.tokens[0];
      for (std::size_t t = 1; t < 30; ++t) {
        count += e.tokens[t] != e.tokens[t - 1];
      }
      ++changes.at(count);
    }
    // Strings with three changes: as many as ways to choose their places, C(30, 3) of 4526.
    CHECK(std::abs(changes[3] - 1000.0 * 4060 / 4526) < 5 * std::sqrt(1000 * 0.09));
  }

  TEST_CASE("flip flop: instructions come as often as stated") {
    const auto task = task_from("{name: flip_flop, ignore: 0.7, length: 512, test_lengths: [512]}");
    double ignored = 0, read = 0, all = 0;
    for (Index i = 0; i < 200; ++i) {
      const Example e = example(*task, {.index = i});
      CHECK(e.tokens[0] == 2);
      CHECK(e.tokens[510] == 3);
      for (std::size_t t = 2; t < 510; t += 2) {
        ignored += e.tokens[t] == 4;
        read += e.tokens[t] == 3;
        ++all;
      }
    }
    CHECK(std::abs(ignored / all - 0.7) < 0.01);
    CHECK(std::abs(read / all - 0.15) < 0.01);
    CHECK(task->slices(Split::kValid)[1].name == "T512.I98");
  }

  TEST_CASE("in-context languages: automata of splits differ, and legal sets are what they allow") {
    const auto task = task_from("{name: in_context_language}");
    // Pairs of neighbours that a sequence has: of one automaton few, of any two not the same.
    std::set<std::vector<std::uint64_t>> train, valid;
    for (Index i = 0; i < 50; ++i) {
      for (const Split split : {Split::kTrain, Split::kValid}) {
        const Example e = example(*task, {.split = split, .index = i});
        std::set<std::uint64_t> sets;
        Index words = 1;
        for (std::size_t t = 0; t < e.labels.size(); ++t) {
          words += e.tokens[t] == 18;
          if (e.labels[t] != kIgnore) {
            CHECK(e.labels[t] < 18);
            const int symbols = std::popcount(e.legal[t]);
            CHECK((symbols >= 1 && symbols <= 3));
            sets.insert(e.legal[t]);
          }
        }
        CHECK((words >= 10 && words <= 19));
        CHECK(sets.size() <= 12);
        (split == Split::kTrain ? train : valid)
            .insert(std::vector<std::uint64_t>(sets.begin(), sets.end()));
      }
    }
    for (const auto& sets : train) {
      CHECK(!valid.contains(sets));
    }
  }

  TEST_CASE("regression: least squares tells y from n points on, and others come nowhere near") {
    const auto task = task_from("{name: regression, dims: 4, points: 12, bins: 4096}");
    std::map<std::string, double> error;
    double square = 0;
    const std::vector<double>& value = task->info().class_values;
    for (Index i = 0; i < 200; ++i) {
      const Example e = example(*task, {.index = i});
      for (const Predictor& p : task->predictors()) {
        Example told = e;
        p.answer({told.tokens, told.vectors, told.labels, told.tags, &told.starts, told.legal});
        for (std::size_t t = 16; t < 24; t += 2) {
          const double right = value[static_cast<std::size_t>(e.labels[t])];
          const double off = value[static_cast<std::size_t>(told.labels[t])] - right;
          error[p.name] += off * off;
          square += p.name == "ridge" ? right * right : 0;
        }
      }
    }
    CHECK(square / 800 == doctest::Approx(1).epsilon(0.2));
    CHECK(error["least_squares"] / square < 1e-4);
    CHECK(error["ridge"] / square < 0.1);
    CHECK(error["averaging"] / square > 0.2);
    CHECK(error["3_neighbors"] / square > 0.2);
  }

  TEST_CASE("permutations: products of the group, and of swaps all of it") {
    const auto s3 = task_from("{name: permutations, length: 2}");
    std::set<std::vector<std::int64_t>> table;
    for (Index i = 0; i < 2000; ++i) {
      const Example e = example(*s3, {.index = i});
      CHECK(e.labels[0] == e.tokens[0]);
      table.insert({e.tokens[0], e.tokens[1], e.labels[1]});
    }
    CHECK(table.size() == 36);
    Index different = 0;
    for (const auto& row : table) {
      different += table.contains({row[1], row[0], row[2]}) ? 0 : 1;
    }
    CHECK(different == 18);  // S3 is not commutative: half of its pairs do not commute
    const auto swaps = task_from("{name: permutations, group: s5, inputs: swaps, length: 64}");
    std::set<std::int64_t> inputs, products;
    for (Index i = 0; i < 200; ++i) {
      const Example e = example(*swaps, {.index = i});
      inputs.insert(e.tokens.begin(), e.tokens.end());
      products.insert(e.labels.begin(), e.labels.end());
    }
    CHECK(inputs.size() == 11);
    CHECK(products.size() == 120);
  }
}
