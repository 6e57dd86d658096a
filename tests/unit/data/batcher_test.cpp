#include "data/batcher.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <set>
#include <thread>

#include "data/prefetch.h"
#include "tests/support/errors.h"
#include "tests/unit/data/data_support.h"

using namespace ls;
using namespace ls::data;
using test::message;
using test::says;

namespace {
const char* const kMixture =
    "{name: mqar, vocab: 64, train: [{length: 16, pairs: 2}, {length: 32, pairs: 4, weight: 3}]}";

/// Writes one thing that it has not declared.
class Careless final : public Task {
 public:
  Careless(std::function<void(const ExampleView&)> slip, std::vector<std::string> tags = {})
      : Task("careless", {}), slip_(std::move(slip)) {
    info_.vocab_in = 5;
    info_.classes = 3;
    info_.tags = std::move(tags);
    add_slice(Split::kTrain, {.name = "T8", .length = 8});
  }
  void sample(const ExampleKey&, const ExampleView& out) const override { slip_(out); }

 private:
  std::function<void(const ExampleView&)> slip_;
};

std::vector<double> row(const Tensor& t, Index r) {
  return t.select(0, r).contiguous().to_vector<double>();
}
}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("batches are the same on any number of ranks and in any order of asking") {
    for (const std::string& yaml :
         {std::string(kMixture), std::string("{name: parity, length: 4, max_length: 9}"),
          std::string("{name: mqar, variant: continuous_forgetting, vocab: 64, width: 4, train: "
                      "[{pairs: 5}]}")}) {
      CAPTURE(yaml);
      const auto task = task_from(yaml);
      const Batcher whole(*task, {.batch = 7, .seed = 5});
      CHECK(whole.batches() == 0);
      for (const Index ranks : {1, 2, 3, 7, 9}) {
        const auto twin = task_from(yaml);
        for (const Index step : {11, 0, 3}) {
          const Batch want = whole.make(step);
          Index rows = 0, labelled = 0;
          for (Index rank = 0; rank < ranks; ++rank) {
            const Batcher batcher(*twin, {.batch = 7, .seed = 5, .rank = rank, .ranks = ranks});
            const Batch b = batcher.make(step);
            CHECK(b.first_row == rows);
            CHECK(b.length == want.length);
            CHECK(b.global_rows == 7);
            for (Index r = 0; r < b.rows; ++r) {
              CHECK(row(b.labels, r) == row(want.labels, rows + r));
              if (want.tokens.defined()) {
                CHECK(row(b.tokens, r) == row(want.tokens, rows + r));
              } else {
                CHECK(row(b.vectors, r) == row(want.vectors, rows + r));
                CHECK(row(b.tags, r) == row(want.tags, rows + r));
              }
            }
            rows += b.rows;
            labelled += b.labelled;
          }
          CHECK(rows == 7);
          CHECK(labelled == want.labelled);
        }
      }
    }
  }

  TEST_CASE("what a task writes without having declared it is named") {
    const auto fault = [](const Careless& task) {
      return message([&] { Batcher(task, {.batch = 2}).make(0); });
    };
    CHECK(fault(Careless([](const ExampleView& e) {
            e.labels[4] = 2;
            e.tokens[7] = 4;
            e.document_starts->assign({0, 7});
          })) == "nothing thrown");
    CHECK(says(fault(Careless([](const ExampleView& e) { e.labels[4] = 3; })),
               "example 0 of train setting 0, position 4 of 8: label 3 is none of the 3 classes"));
    CHECK(says(fault(Careless([](const ExampleView& e) { e.labels[7] = -1; })),
               "position 7 of 8: label -1 is none of the 3 classes 0 .. 2"));
    CHECK(says(fault(Careless([](const ExampleView& e) { e.tokens[0] = 5; })),
               "position 0 of 8: token 5 is none of the 5 (0 .. 4)"));
    CHECK(says(fault(Careless([](const ExampleView& e) { e.tags[2] = 1; })),
               "position 2 of 8: tag 1 is written, 0 are declared"));
    CHECK(says(fault(Careless([](const ExampleView& e) { e.tags[2] = 2; }, {"old"})),
               "position 2 of 8: tag 2 is written, 1 are declared"));
    CHECK(says(fault(Careless([](const ExampleView& e) {
                 e.document_starts->assign({3, 3});
               })),
               "document starts must ascend within 0 .. 7, 3 follows 3"));
    CHECK(says(fault(Careless([](const ExampleView& e) { e.document_starts->assign({8}); })),
               "document starts must ascend"));
  }

  TEST_CASE("mixtures follow their weights, ranges of lengths are uniform") {
    const auto task = task_from(kMixture);
    const Sampler sampler(*task, Split::kTrain, 2, 1);
    Index second = 0;
    std::set<Index> used;
    for (Index step = 0; step < 4000; ++step) {
      const BatchPlan plan = sampler.plan(step);
      second += plan.slice;
      CHECK(plan.length == (plan.slice == 0 ? 16 : 32));
      for (const Index i : plan.index) {
        CHECK(used.insert(i).second);  // no example twice
      }
    }
    CHECK(std::abs(static_cast<double>(second) - 3000) < 5 * 27.4);

    const auto parity = task_from("{name: parity, length: 4, max_length: 9}");
    const Sampler lengths(*parity, Split::kTrain, 2, 1);
    std::map<Index, Index> counts;
    for (Index step = 0; step < 6000; ++step) {
      ++counts[lengths.plan(step).length];
    }
    CHECK(counts.size() == 6);
    CHECK(counts.begin()->first == 4);
    for (const auto& [length, count] : counts) {
      CHECK(std::abs(static_cast<double>(count) - 1000) < 5 * 29);
    }
    CHECK_THROWS_AS(Sampler(*parity, Split::kTrain, 0, 1), Error);
  }

  TEST_CASE("validation is one pass in order, without gaps") {
    const auto task = task_from(
        "{name: mqar, vocab: 64, train: [{pairs: 2, length: 8}], test: [{pairs: 2, length: 8, "
        "examples: "
        "5}, {pairs: 3, length: 12, examples: 4}]}");
    const Batcher batcher(*task, {.split = Split::kValid, .batch = 4, .seed = 1});
    REQUIRE(batcher.batches() == 3);
    std::vector<std::vector<double>> rows;
    for (Index step = 0; step < 3; ++step) {
      const Batch b = batcher.make(step);
      for (Index r = 0; r < b.rows; ++r) {
        rows.push_back(row(b.tokens, r));
      }
    }
    REQUIRE(rows.size() == 9);
    for (std::size_t i = 0; i < 9; ++i) {
      const Example e = example(*task, {.split = Split::kValid,
                                        .slice = i < 5 ? 0 : 1,
                                        .index = static_cast<Index>(i < 5 ? i : i - 5)});
      CHECK(rows[i] == std::vector<double>(e.tokens.begin(), e.tokens.end()));
    }
    CHECK_THROWS_AS(batcher.make(3), Error);
  }

  TEST_CASE("shuffled finite sets: each example once an epoch, in another order the next") {
    const auto task = task_from(
        "{name: mqar, vocab: 64, train: [{pairs: 2, examples: 10}, {pairs: 4, examples: 6}]}");
    const Sampler sampler(*task, Split::kTrain, 4, 9);
    REQUIRE(sampler.batches() == 5);
    std::vector<std::vector<std::pair<Index, Index>>> epochs(3);
    for (Index step = 0; step < 15; ++step) {
      const BatchPlan plan = sampler.plan(step);
      for (const Index i : plan.index) {
        epochs[static_cast<std::size_t>(step / 5)].emplace_back(plan.slice, i);
      }
    }
    for (auto& epoch : epochs) {
      CHECK(std::set<std::pair<Index, Index>>(epoch.begin(), epoch.end()).size() == 16);
      CHECK(epoch.size() == 16);
    }
    // Which examples share a batch changes too, not only the order of the batches.
    const BatchPlan first = sampler.plan(0);
    CHECK(first.index != std::vector<Index>{0, 1, 2, 3});
    CHECK(!std::is_sorted(epochs[2].begin(), epochs[2].end()));
    std::set<std::set<Index>> shared;
    std::set<std::vector<Index>> slice_orders;
    std::vector<Index> order;
    for (Index step = 0; step < 15; ++step) {
      const BatchPlan plan = sampler.plan(step);
      order.push_back(plan.slice);
      if (order.size() == 5) {
        slice_orders.insert(order);
        order.clear();
      }
      shared.insert(std::set<Index>(plan.index.begin(), plan.index.end()));
    }
    CHECK(slice_orders.size() > 1);
    CHECK(shared.size() > 10);  // 5 if the sets never changed
    CHECK(epochs[0] != epochs[1]);
    CHECK(epochs[1] != epochs[2]);
  }

  TEST_CASE("prefetching: the same batches for any number of workers, from any first step") {
    const auto task = task_from(kMixture);
    const Batcher batcher(*task, {.batch = 5, .seed = 2});
    for (const int workers : {0, 1, 2, 5}) {
      for (const int depth : {1, 3}) {
        Prefetcher ahead([&](Index step) { return batcher.make(step); },
                         {.first_step = 17, .end_step = 40, .depth = depth, .workers = workers});
        for (Index step = 17; step < 40; ++step) {
          REQUIRE(same(ahead.next(), batcher.make(step)));
        }
        CHECK_THROWS_AS(ahead.next(), Error);
      }
    }
    // Endless, and dropped with batches waiting.
    Prefetcher ahead([&](Index step) { return batcher.make(step); }, {.workers = 3});
    CHECK(same(ahead.next(), batcher.make(0)));
  }

  TEST_CASE("prefetching keeps within its depth and stops cleanly before, between and after") {
    std::atomic<Index> made{0};
    const auto make = [&](Index step) {
      ++made;
      Batch b;
      b.step = step;
      return b;
    };
    { Prefetcher unused(make, {.depth = 2, .workers = 2}); }
    CHECK(made <= 2);
    made = 0;
    Prefetcher ahead(make, {.depth = 3, .workers = 2});
    for (int i = 0; i < 200 && made < 3; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    CHECK(made == 3);
    CHECK(ahead.next().step == 0);
    CHECK(ahead.next().step == 1);
    CHECK_THROWS_AS(Prefetcher(make, {.depth = 0}), Error);
  }

  TEST_CASE("an exception in a worker reaches the caller unchanged, at its own step") {
    for (const int workers : {0, 1, 4}) {
      Prefetcher ahead(
          [](Index step) {
            LS_CHECK(step < 6, kIo, "batch {} is broken", step);
            std::this_thread::sleep_for(
                std::chrono::milliseconds(2));  // later ones are ready first
            Batch b;
            b.step = step;
            return b;
          },
          {.depth = 8, .workers = workers});
      for (Index step = 0; step < 6; ++step) {
        CHECK(ahead.next().step == step);
      }
      for (int again = 0; again < 2; ++again) {
        try {
          ahead.next();
          FAIL("no exception");
        } catch (const Error& e) {
          CHECK(e.kind() == ErrorKind::kIo);
          CHECK(e.message() == "batch 6 is broken");
        }
      }
    }
  }

  TEST_CASE("the idle share is high for a slow source and low for a slow consumer") {
    const auto nap = [](int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); };
    Prefetcher slow_source(
        [&](Index) {
          nap(20);
          return Batch{};
        },
        {});
    CHECK(slow_source.take_idle_share() == 0);
    for (int i = 0; i < 5; ++i) {
      slow_source.next();
    }
    CHECK(slow_source.take_idle_share() > 0.7);

    Prefetcher slow_consumer([](Index) { return Batch{}; }, {});
    slow_consumer.next();
    slow_consumer.take_idle_share();
    for (int i = 0; i < 5; ++i) {
      nap(20);
      slow_consumer.next();
    }
    CHECK(slow_consumer.take_idle_share() < 0.3);
  }
}
