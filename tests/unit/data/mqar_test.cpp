#include <doctest/doctest.h>

#include <cmath>
#include <map>
#include <set>

#include "tests/unit/data/data_support.h"

using namespace ls;
using namespace ls::data;

namespace {
/// What a reader of the context would answer: the last value written behind each key.
std::map<Index, Index> read_context(const Example& e, Index tokens) {
  std::map<Index, Index> last;
  for (std::size_t t = 0; t + 1 < static_cast<std::size_t>(tokens); t += 2) {
    last[e.tokens[t]] = e.tokens[t + 1];
  }
  return last;
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
/// The row of a table of embeddings that equals a vector, or -1.
Index find_row(const std::vector<float>& table, const float* x, std::size_t width) {
  for (std::size_t r = 0; r * width < table.size(); ++r) {
    if (std::equal(x, x + width, table.begin() + static_cast<std::ptrdiff_t>(r * width))) {
      return static_cast<Index>(r);
    }
  }
  return -1;
}
}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("mqar: every query can be answered from the context, and only queries are labelled") {
    for (const std::string protocol : {"clean", "zoology"}) {
      for (const std::string fill : {"false", "true"}) {
        for (const Index passes : {1, 2}) {
          CAPTURE(protocol);
          CAPTURE(fill);
          CAPTURE(passes);
          const auto task = task_from(fmt::format(
              "{{name: mqar, protocol: {}, vocab: 64, passes: {}, random_non_queries: {}, train: "
              "[{{length: 48, pairs: 6}}]}}",
              protocol, passes, fill));
          CHECK(task->info().vocab_in == 64);
          CHECK(task->info().classes == 64);
          CHECK(task->info().metrics.front() == "ex_acc");
          for (Index i = 0; i < 200; ++i) {
            const Example e = example(*task, {.index = i});
            const auto context = read_context(e, 12 * passes);
            REQUIRE(context.size() == 6);
            std::set<Index> values, asked;
            for (const auto& [key, value] : context) {
              REQUIRE((key >= 1 && key < 32));
              REQUIRE((value >= 32 && value < 64));
              values.insert(value);
            }
            CHECK(values.size() == 6);
            for (Index pass = 1; pass < passes; ++pass) {  // the pairs once more, in the same order
              CHECK(std::equal(e.tokens.begin(), e.tokens.begin() + 12,
                               e.tokens.begin() + 12 * pass));
            }
            for (const std::size_t t : labelled(e)) {
              REQUIRE(t >= static_cast<std::size_t>(12 * passes));
              CHECK(t % 2 == 0);
              asked.insert(e.tokens[t]);
              CHECK(e.labels[t] == context.at(e.tokens[t]));
            }
            CHECK(asked.size() == 6);
            CHECK(labelled(e).size() == 6);
            for (std::size_t t = static_cast<std::size_t>(12 * passes); t < 48; ++t) {
              if (e.labels[t] != kIgnore) {
                continue;
              }
              if (fill == "false") {
                CHECK(e.tokens[t] == 0);
              } else if (protocol == "clean") {  // a filler is never a live key or value
                CHECK(e.tokens[t] != 0);
                CHECK(context.count(e.tokens[t]) == 0);
                CHECK(values.count(e.tokens[t]) == 0);
              }
            }
          }
        }
      }
    }
  }

  TEST_CASE("mqar: query slots follow the power law of gaps") {
    // One pair: the slot has probability proportional to (i+1)^(a-1) exactly.
    for (const double a : {0.01, 1.0}) {
      const auto task = task_from(fmt::format(
          "{{name: mqar, vocab: 256, power_a: {}, train: [{{length: 34, pairs: 1}}]}}", a));
      std::vector<double> seen(16);
      const int n = 20000;
      for (Index i = 0; i < n; ++i) {
        const Example e = example(*task, {.index = i});
        seen.at((labelled(e).at(0) - 2) / 2) += 1;
      }
      double total = 0, chi = 0;
      for (int i = 1; i <= 16; ++i) {
        total += std::pow(i, a - 1);
      }
      for (int i = 1; i <= 16; ++i) {
        const double expected = n * std::pow(i, a - 1) / total;
        chi += std::pow(seen[static_cast<std::size_t>(i - 1)] - expected, 2) / expected;
      }
      CHECK(chi < 15 + 5 * std::sqrt(30.0));
    }
    // Two pairs: successive draws, the second renormalised over what is left.
    const auto task =
        task_from("{name: mqar, vocab: 256, power_a: 0.5, train: [{length: 10, pairs: 2}]}");
    const double w[3] = {1, std::pow(2, -0.5), std::pow(3, -0.5)};
    const double total = w[0] + w[1] + w[2];
    std::map<std::pair<std::size_t, std::size_t>, double> seen;
    const int n = 20000;
    for (Index i = 0; i < n; ++i) {
      const Example e = example(*task, {.index = i});
      std::size_t slot[2] = {};
      for (const std::size_t t : labelled(e)) {
        slot[e.tokens[t] == e.tokens[0] ? 0 : 1] = (t - 4) / 2;
      }
      seen[{slot[0], slot[1]}] += 1;
    }
    double chi = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      for (std::size_t j = 0; j < 3; ++j) {
        if (i != j) {
          const double expected = n * w[i] / total * w[j] / (total - w[i]);
          chi += std::pow(seen[{i, j}] - expected, 2) / expected;
        }
      }
    }
    CHECK(chi < 5 + 5 * std::sqrt(10.0));
  }

  TEST_CASE("mqar forgetting: the latest value is the label, and tags tell rewritten keys") {
    const auto task = task_from(
        "{name: mqar, variant: forgetting, vocab: 64, train: [{length: 48, pairs: 6, updates: "
        "3}]}");
    CHECK(task->info().tags == std::vector<std::string>{"updated", "untouched"});
    std::set<Index> places;
    for (Index i = 0; i < 300; ++i) {
      const Example e = example(*task, {.index = i});
      const auto first = read_context(e, 12);
      const auto last = read_context(e, 18);
      REQUIRE(last.size() == 6);  // rewrites use keys that are there
      std::set<Index> rewritten, values;
      for (std::size_t t = 12; t < 18; t += 2) {
        rewritten.insert(e.tokens[t]);
        CHECK(e.tokens[t + 1] != first.at(e.tokens[t]));
      }
      for (std::size_t t = 1; t < 18; t += 2) {
        values.insert(e.tokens[t]);
      }
      CHECK(rewritten.size() == 3);
      CHECK(values.size() == 9);
      for (std::size_t j = 0; j < 6; ++j) {
        if (rewritten.count(e.tokens[2 * j])) {
          places.insert(static_cast<Index>(j));
        }
      }
      for (const std::size_t t : labelled(e)) {
        CHECK(e.labels[t] == last.at(e.tokens[t]));
        CHECK(e.tags[t] == (rewritten.count(e.tokens[t]) ? 1 : 2));
      }
      CHECK(labelled(e).size() == 6);
    }
    CHECK(places.size() == 6);  // any key may be rewritten
  }

  TEST_CASE("mqar zoology: the published quirks") {
    SUBCASE("fillers may be keys, values and blanks of the same example") {
      const auto task = task_from(
          "{name: mqar, protocol: zoology, vocab: 50, random_non_queries: true, train: [{length: "
          "48, "
          "pairs: 4}]}");
      Index live = 0, blank = 0;
      std::vector<Index> counts(50);
      for (Index i = 0; i < 400; ++i) {
        const Example e = example(*task, {.index = i});
        const auto context = read_context(e, 8);
        for (std::size_t t = 8; t < 48; ++t) {
          if (e.labels[t] == kIgnore) {
            live += static_cast<Index>(context.count(e.tokens[t]));
            blank += e.tokens[t] == 0;
            ++counts.at(static_cast<std::size_t>(e.tokens[t]));
          }
        }
      }
      CHECK(live > 100);  // 4 of 50 tokens: about 8 % of 14400
      CHECK(blank > 100);
      for (const Index c : counts) {
        CHECK(std::abs(static_cast<double>(c) - 288) < 6 * 17);
      }
    }
    SUBCASE("a rewrite may repeat the old value of its key") {
      const auto repeats = [](const std::string& protocol) {
        const auto task =
            task_from("{name: mqar, variant: forgetting, vocab: 16, protocol: " + protocol +
                      ", train: [{length: 24, pairs: 4, updates: 4}]}");
        Index n = 0, wrong = 0;
        for (Index i = 0; i < 2000; ++i) {
          const Example e = example(*task, {.index = i});
          const auto first = read_context(e, 8);
          for (std::size_t j = 0; j < 4; ++j) {
            n += e.tokens[8 + 2 * j + 1] == first.at(e.tokens[8 + 2 * j]);
            wrong += e.tokens[8 + 2 * j + 1] == e.tokens[2 * j + 1];
          }
          const auto last = read_context(e, 16);
          for (const std::size_t t : labelled(e)) {
            REQUIRE(e.labels[t] == last.at(e.tokens[t]));
          }
        }
        CHECK(wrong == 0);
        return n;
      };
      // 8 values; update j avoids one of them, its own key's in 1 case of 4: 3/4 * 1/7 of 8000
      // repeat.
      CHECK(std::abs(static_cast<double>(repeats("zoology")) - 857) < 6 * 28);
      CHECK(repeats("clean") == 0);
    }
    SUBCASE("a finite set, slice after slice, the same order every epoch, partial last batches") {
      const auto task = task_from(
          "{name: mqar, protocol: zoology, vocab: 64, train: [{length: 16, pairs: 2, examples: "
          "10}, "
          "{length: 32, pairs: 4, examples: 5}]}");
      const Batcher batcher(*task, {.batch = 4, .seed = 3});
      CHECK(batcher.batches() == 5);
      std::vector<Index> rows, slices;
      for (Index step = 0; step < 5; ++step) {
        const Batch b = batcher.make(step), again = batcher.make(step + 5);
        rows.push_back(b.rows);
        slices.push_back(b.slice);
        CHECK(b.length == (b.slice == 0 ? 16 : 32));
        CHECK(same(b.tokens, again.tokens));
      }
      CHECK(rows == std::vector<Index>{4, 4, 2, 4, 1});
      CHECK(slices == std::vector<Index>{0, 0, 0, 1, 1});
    }
    SUBCASE("sizes of the published sets") {
      const auto task =
          task_from("{name: mqar, protocol: zoology, train: [{length: 64, pairs: 4}]}");
      CHECK(task->slices(Split::kTrain)[0].examples == 100000);
      CHECK(task->slices(Split::kTest)[0].examples == 3000);
    }
    SUBCASE("the global mapping pairs draws, not keys and values") {
      const auto task = task_from(
          "{name: mqar, protocol: zoology, variant: continuous, mapping: global, vocab: 32, width: "
          "8, "
          "train: [{pairs: 4}]}");
      std::map<Index, std::set<Index>> values_of_key;
      const std::vector<float> values = task->info().class_embeddings.to_vector<float>();
      std::map<std::vector<float>, std::set<Index>> seen;
      for (Index i = 0; i < 100; ++i) {
        const Example e = example(*task, {.index = i});
        for (std::size_t t = 0; t < 4; ++t) {
          const float* x = e.vectors.data() + t * 16;
          seen[std::vector<float>(x, x + 8)].insert(find_row(values, x + 8, 8));
        }
      }
      CHECK(seen.size() == 16);
      for (const auto& [key, indices] : seen) {
        CHECK(indices.size() > 3);
      }
    }
  }

  TEST_CASE(
      "mqar continuous: vectors, queries without values, answers among the value embeddings") {
    for (const std::string variant : {"continuous", "continuous_forgetting"}) {
      for (const Index passes : {1, 2}) {
        const auto task =
            task_from(fmt::format("{{name: mqar, variant: {}, vocab: 64, width: 8, passes: {}, "
                                  "train: [{{pairs: 8, updates: "
                                  "4}}]}}",
                                  variant, passes));
        const Index updates = variant == "continuous" ? 0 : 4;
        const std::size_t context = static_cast<std::size_t>(8 * passes + updates);
        CHECK(task->info().vocab_in == 0);
        CHECK(task->info().vector_width == 16);
        CHECK(task->info().classes == 32);
        const Tensor& table = task->info().class_embeddings;
        REQUIRE(table.shape() == Shape{32, 8});
        const std::vector<float> values = table.to_vector<float>();
        for (std::size_t r = 0; r < 32; ++r) {
          double square = 0;
          for (std::size_t i = 0; i < 8; ++i) {
            square += values[r * 8 + i] * values[r * 8 + i];
          }
          CHECK(std::abs(square - 1) < 1e-6);
        }
        std::set<std::vector<Index>> orders;
        for (Index n = 0; n < 50; ++n) {
          const Example e = example(*task, {.index = n});
          REQUIRE(e.labels.size() == context + 8);
          std::map<std::vector<float>, Index> last;
          std::set<std::vector<float>> rewritten;
          std::vector<Index> order;
          for (std::size_t t = 0; t < context + 8; ++t) {
            const float* x = e.vectors.data() + t * 16;
            const std::vector<float> key(x, x + 8);
            const Index value = find_row(values, x + 8, 8);
            if (t < context) {
              REQUIRE(value >= 0);
              REQUIRE(e.labels[t] == kIgnore);
              if (t >= static_cast<std::size_t>(8 * passes)) {
                CHECK(last.at(key) != value);
                rewritten.insert(key);
              } else if (t >= 8) {
                CHECK(last.at(key) == value);
              }
              last[key] = value;
            } else {
              CHECK(std::all_of(x + 8, x + 16, [](float v) { return v == 0; }));
              CHECK(e.labels[t] == last.at(key));
              order.push_back(e.labels[t]);
              if (updates > 0) {
                CHECK(e.tags[t] == (rewritten.count(key) ? 1 : 2));
              }
            }
          }
          CHECK(last.size() == 8);
          CHECK(rewritten.size() == static_cast<std::size_t>(updates));
          CHECK(std::set<Index>(order.begin(), order.end()).size() == 8);
          orders.insert(order);
        }
        CHECK(orders.size() == 50);
      }
    }
  }

  TEST_CASE(
      "mqar continuous: a global mapping ties each key to one value; the seed makes embeddings") {
    const std::string yaml =
        "{name: mqar, variant: continuous, mapping: global, vocab: 32, width: 8, train: [{pairs: "
        "4}]}";
    const auto task = task_from(yaml), twin = task_from(yaml), other = task_from(yaml, {.seed = 2});
    CHECK(same(task->info().class_embeddings, twin->info().class_embeddings));
    CHECK(!same(task->info().class_embeddings, other->info().class_embeddings));
    const std::vector<float> values = task->info().class_embeddings.to_vector<float>();
    std::map<std::vector<float>, Index> value_of;
    for (Index i = 0; i < 100; ++i) {
      const Example e = example(*task, {.index = i});
      for (std::size_t t = 0; t < 4; ++t) {
        const float* x = e.vectors.data() + t * 16;
        const Index v = find_row(values, x + 8, 8);
        const auto [it, fresh] = value_of.try_emplace(std::vector<float>(x, x + 8), v);
        CHECK(it->second == v);
      }
    }
    CHECK(value_of.size() == 16);
  }

  TEST_CASE("mqar: settings that cannot be are refused with the reason") {
    const std::pair<std::string, const char*> cases[] = {
        {"{name: mqar, train: [{length: 15, pairs: 4}]}", "at least 16"},
        {"{name: mqar, train: [{length: 17, pairs: 4}]}", "even"},
        {"{name: mqar, vocab: 16, train: [{length: 64, pairs: 8}]}", "needs 8 keys"},
        {"{name: mqar, variant: forgetting, train: [{length: 64, pairs: 3, updates: 4}]}",
         "at most one a key"},
        {"{name: mqar, variant: forgetting, train: [{length: 16, pairs: 4, updates: 2}]}",
         "at least 20"},
        {"{name: mqar, variant: continuous, train: [{length: 9, pairs: 4}]}", "exactly 8"},
        {"{name: mqar, mapping: global}", "continuous only"},
        {"{name: mqar, passes: 2, variant: forgetting, protocol: zoology}", "must be 1"},
        {"{name: mqar, train: []}", "train"},
        {"{name: mqar, vocab: 8, random_non_queries: true, train: [{length: 32, pairs: 3, updates: "
         "0}, "
         "{length: 64, pairs: 4}]}",
         "keys"},
        {"{name: mqar, train: [{pairs: 4, length: 64}, {pairs: 4, length: 64}]}",
         "two train settings"},
        {"{name: mqar, train: [{pairs: 4, examples: 5}, {pairs: 8}]}", "all or none"},
        {"{name: mqar, power_a: 0}", "power_a"},
    };
    for (const auto& [yaml, message] : cases) {
      CAPTURE(yaml);
      CHECK_THROWS_WITH_AS(task_from(yaml), doctest::Contains(message), Error);
    }
  }
}
