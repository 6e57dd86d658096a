// Training lengths that grow by a schedule.
#include <doctest/doctest.h>

#include "core/config/yaml.h"
#include "data/batcher.h"
#include "tests/support/errors.h"
#include "tests/support/text_folder.h"

using namespace ls;
using namespace ls::data;

namespace {

struct OfTask {
  Component<Task> task;
  template <class F>
  void fields(F& f) {
    f("task", task, {.required = true});
  }
};

std::unique_ptr<Task> task_of(const std::string& text, bool stream = false) {
  return make_task(read_config_text<OfTask>("task: {" + text + "}").task, {.stream = stream});
}

std::vector<Index> lengths_of(const std::string& text, Index n) {
  const auto task = task_of(text);
  const Batcher batcher(*task, {.batch = 2});
  std::vector<Index> out;
  for (Index i = 0; i < n; ++i) {
    const Batch b = batcher.make(i);
    CHECK(b.labels.shape() == Shape{2, b.length});
    out.push_back(b.length);
  }
  return out;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("growing rows: the length is a function of the update") {
    const std::string parity = "name: parity, length: 4, max_length: 16, grow: ";
    CHECK(lengths_of(parity + "{by: doubling, at: [2, 5]}", 8) ==
          std::vector<Index>{4, 4, 8, 8, 8, 16, 16, 16});
    CHECK(lengths_of(parity + "{by: linear, at: [6], step: 4}", 8) ==
          std::vector<Index>{4, 4, 8, 8, 12, 12, 16, 16});
    // Steps that are shorter than an update are taken together.
    CHECK(lengths_of(parity + "{by: linear, at: [3]}", 5) == std::vector<Index>{4, 8, 12, 16, 16});
  }

  TEST_CASE("growing rows: text that goes on has no gap") {
    const test::TextFolder texts(4000);
    const std::string bytes = "name: bytes, path: " + texts.path +
                              "/text, split: tail, valid_share: 0.1, test_windows: 1, ";
    const auto rows = [&](const std::string& lengths, Index batches) {
      const auto task = task_of(bytes + lengths, true);
      const Batcher batcher(*task, {.batch = 3});
      std::vector<std::vector<std::int64_t>> out(3);
      for (Index i = 0; i < batches; ++i) {
        const Batch b = batcher.make(i);
        CHECK(b.continues == (i > 0));
        for (Index r = 0; r < 3; ++r) {
          const auto row = b.tokens.slice(0, r, r + 1).to_vector<std::int64_t>();
          auto& all = out[static_cast<std::size_t>(r)];
          all.insert(all.end(), row.begin(), row.end());
        }
      }
      return out;
    };
    CHECK(rows("length: 8, max_length: 32, grow: {at: [2, 5]}", 7) == rows("length: 8", 16));
  }

  TEST_CASE("growing rows: what does not fit") {
    const auto fault = [](const std::string& text) {
      return test::message([&] { task_of("name: parity, " + text); });
    };
    for (const auto& [text, part] :
         {std::pair("length: 4, grow: {at: [2]}", "needs a max_length above length"),
          std::pair("length: 4, max_length: 12, grow: {at: [2]}",
                    "4 tokens become 8 in the end, max_length is 12"),
          std::pair("length: 4, max_length: 16, grow: {at: [5, 2]}", "must be ascending"),
          std::pair("length: 4, max_length: 16, grow: {by: linear, at: [5, 9]}", "one update"),
          std::pair("length: 4, max_length: 15, grow: {by: linear, at: [5], step: 2}",
                    "no whole number of steps of 2")}) {
      const std::string message = fault(text);
      CAPTURE(message);
      CHECK(test::says(message, part));
    }
  }
}
