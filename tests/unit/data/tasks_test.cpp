#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>

#include "tests/support/paths.h"
#include "tests/unit/data/data_support.h"

using namespace ls;
using namespace ls::data;

namespace {

std::string read_file(const std::string& path) {
  std::ifstream in(path);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("generators give what they gave before: a change of examples must be meant") {
    const std::pair<std::string, std::uint64_t> cases[] = {
        {"{name: mqar, train: [{length: 64, pairs: 8}]}", 0xa4a6e3fa671c21fcu},
        {"{name: mqar, random_non_queries: true, passes: 2}", 0x834881a9e5523ee8u},
        {"{name: mqar, protocol: zoology, variant: forgetting, random_non_queries: true}",
         0x6902e5cb98079414u},
        {"{name: parity}", 0xd2a44af71caa42f1u},
        {"{name: copying}", 0xab6205f38ddda034u},
        {"{name: copying, variant: lag}", 0x12f8c27156e6c1b4u},
        {"{name: flip_flop}", 0x1bd2e34799362c87u},
        {"{name: hash_hop}", 0xc3d58e4f6567e173u},
        {"{name: induction, twice: 0.5}", 0x21ba221bf5e19f26u},
        {"{name: passkey, length: 64}", 0x7c7df9b7cdf4e78bu},
        {"{name: set_disjointness}", 0xd99e14579a8a2691u},
        {"{name: permutations, group: s5}", 0x44919b4c91a387c6u},
        {"{name: dyck}", 0xd0b398d752f62424u},
        {"{name: regular}", 0x6dc7e418b775b388u},
        {"{name: modular_arithmetic}", 0xa4a4344d923b12bcu},
        {"{name: modular_arithmetic, variant: expression}", 0x613a0dc86f6bc661u},
        {"{name: modular_arithmetic, variant: brackets}", 0x744b417e58ffb619u},
        {"{name: in_context_language}", 0xa5b491d57a9795fdu},
        {"{name: compositional_recall}", 0x0b48949f7b3c3445u},
    };
    for (const auto& [yaml, want] : cases) {
      const auto task = task_from(yaml, {.seed = 7});
      std::uint64_t hash = 0;
      for (Index i = 0; i < 10; ++i) {
        const Example e = example(*task, {.index = i});
        for (std::size_t t = 0; t < e.tokens.size(); ++t) {
          hash = mix64(hash ^ static_cast<std::uint64_t>(e.tokens[t]));
          hash = mix64(hash ^ static_cast<std::uint64_t>(e.labels[t]));
        }
      }
      CAPTURE(yaml);
      CHECK(fmt::format("{:016x}", hash) == fmt::format("{:016x}", want));
    }
  }

  TEST_CASE("the task files in configs/tasks make tasks, and their longest slices examples") {
    // A text in the place of the user's.
    const Sentences sentences;
    Index files = 0;
    for (const auto& file :
         std::filesystem::directory_iterator(ls::test::source_dir() + "/configs/tasks")) {
      CAPTURE(file.path().string());
      const bool text = read_file(file.path().string()).find("\npath:") != std::string::npos;
      const auto task =
          task_from(fmt::format("{{extend: \"{}\"{}}}", file.path().string(),
                                text ? fmt::format(", path: \"{}\"", sentences.path) : ""));
      for (const Split split : {Split::kTrain, Split::kValid, Split::kTest}) {
        const auto last = static_cast<Index>(task->slices(split).size()) - 1;
        if (last < 0) {
          continue;  // texts have no third split
        }
        const Example e = example(*task, {.split = split, .slice = last});
        CHECK(std::count(e.labels.begin(), e.labels.end(), kIgnore) <
              static_cast<Index>(e.labels.size()));
      }
      ++files;
    }
    CHECK(files >= 10);
  }

  TEST_CASE("parity: the label is the parity of the bits so far, at every position or the last") {
    const auto all = task_from("{name: parity, length: 8, max_length: 24, test_lengths: [64]}");
    const auto last = task_from("{name: parity, labels: last}");
    Index ones = 0;
    for (Index i = 0; i < 100; ++i) {
      const Example e = example(*all, {.length = 24, .index = i});
      std::int64_t parity = 0;
      for (std::size_t t = 0; t < 24; ++t) {
        parity = (parity + e.tokens[t]) % 2;
        ones += e.tokens[t];
        CHECK(e.labels[t] == parity);
      }
      const Example l = example(*last, {.length = 20, .index = i});
      CHECK(std::count(l.labels.begin(), l.labels.end(), kIgnore) == 19);
      CHECK(l.labels.back() == std::count(l.tokens.begin(), l.tokens.end(), 1) % 2);
    }
    CHECK(std::abs(static_cast<double>(ones) - 1200) < 5 * 25);
    CHECK(all->slices(Split::kTrain)[0].name == "T8-24");
    CHECK(all->slices(Split::kValid)[0].length == 64);
    CHECK_THROWS_AS(task_from("{name: parity, length: 8, max_length: 7}"), Error);
    CHECK_THROWS_AS(task_from("{name: parity}", {.stream = true}), Error);
  }

  TEST_CASE("copying: the last outputs are the tokens in order of appearance") {
    const auto selective = task_from("{name: copying, vocab: 6, memorize: 4, blanks: 10}");
    const auto plain =
        task_from("{name: copying, variant: plain, vocab: 6, memorize: 4, blanks: 10}");
    std::set<std::vector<std::size_t>> places;
    for (Index i = 0; i < 200; ++i) {
      for (const Task* task : {selective.get(), plain.get()}) {
        const Example e = example(*task, {.index = i});
        REQUIRE(e.tokens.size() == 18);
        std::vector<std::int64_t> held;
        std::vector<std::size_t> place;
        for (std::size_t t = 0; t < 14; ++t) {
          CHECK(e.labels[t] == kIgnore);
          REQUIRE((e.tokens[t] >= 0 && e.tokens[t] <= 4));
          if (e.tokens[t] != 0) {
            held.push_back(e.tokens[t]);
            place.push_back(t);
          }
        }
        CHECK(std::all_of(e.tokens.end() - 4, e.tokens.end(), [](auto x) { return x == 5; }));
        CHECK(held == std::vector<std::int64_t>(e.labels.end() - 4, e.labels.end()));
        if (task == plain.get()) {
          CHECK(place == std::vector<std::size_t>{0, 1, 2, 3});
        } else {
          places.insert(place);
        }
      }
    }
    CHECK(places.size() > 150);  // of 1001

    const auto lag = task_from("{name: copying, variant: lag, memorize: 3, blanks: 12}");
    const Example e = example(*lag, {.index = 5});
    REQUIRE(e.tokens.size() == 12);
    for (std::size_t t = 0; t < 12; ++t) {
      CHECK(e.labels[t] == (t < 3 ? kIgnore : e.tokens[t - 3]));
    }
    CHECK_THROWS_AS(task_from("{name: copying, variant: lag, memorize: 3, blanks: 3}"), Error);
  }
}
