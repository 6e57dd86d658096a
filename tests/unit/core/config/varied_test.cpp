// Files that vary a config: values, what goes together, and what is wrong.
#include "core/config/varied.h"

#include <doctest/doctest.h>

#include <fstream>

#include "tests/support/errors.h"
#include "tests/support/text_folder.h"

using namespace ls;

namespace {

struct Part {
  Index size = 1;
  template <class F>
  void fields(F& f) {
    f("size", size, {.help = "elements", .min = 1});
  }
};
struct Base {
  Index batch = 1;
  double lr = 0.1;
  std::vector<Part> parts;
  template <class F>
  void fields(F& f) {
    f("batch", batch, {.help = "rows", .min = 1});
    f("lr", lr, {.help = "rate", .above = 0});
    f("parts", parts, {.help = "parts"});
  }
};

const std::string kBase = "base: {parts: [{size: 2}, {size: 3}]}\n";

VariedConfig read(const std::string& more, const std::vector<std::string>& overrides = {}) {
  return VariedConfig::from_text(kBase + more, "s.yaml", overrides, {{"rates", "lr"}});
}
Base base_of(const VariedConfig& v, const std::vector<Index>& chosen) {
  Base b;
  read_config(v.tree(chosen), b);
  return b;
}
std::vector<std::string> texts(const ConfigAxis& axis) {
  std::vector<std::string> out;
  for (const auto& value : axis.texts) {
    out.push_back(value.front());
  }
  return out;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("varied configs: lists, zips, rates and all elements of a list") {
    const VariedConfig v = read(
        "axes:\n  parts.*.size: [4, 5]\n  zip: {batch: [2, 3], parts.1.size: [7, 8]}\n"
        "rates: [1e-3, 1e-2]\nname: own\n");
    REQUIRE(v.axes().size() == 3);
    CHECK(v.axis_of("rates") == 2);
    CHECK(v.axes()[1].paths == std::vector<std::string>{"batch", "parts.1.size"});
    const Base b = base_of(v, {0, 1, 1});
    CHECK(b.batch == 3);
    CHECK(b.lr == 1e-2);
    CHECK(b.parts[0].size == 4);
    CHECK(b.parts[1].size == 8);
    const Base as_it_is = base_of(v, {-1, -1, -1});
    CHECK(as_it_is.parts[1].size == 3);
    CHECK(as_it_is.lr == 0.1);
  }

  TEST_CASE("varied configs: spaced and drawn values") {
    const VariedConfig v = read("rates: {log_space: [1e-3, 3.16e-2], count: 4}\n");
    CHECK(texts(v.axes()[0]) == std::vector<std::string>{"0.001", "0.00316", "0.01", "0.0316"});
    const auto drawn = [](int count, int seed) {
      return texts(read(fmt::format("rates: {{log_uniform: [1e-4, 1e-1], count: {}, seed: {}}}\n",
                                    count, seed))
                       .axes()[0]);
    };
    std::vector<std::string> more = drawn(8, 1);
    for (const std::string& text : more) {
      CHECK(std::stod(text) >= 1e-4);
      CHECK(std::stod(text) <= 1e-1);
    }
    CHECK(more != drawn(8, 2));
    more.resize(5);
    CHECK(more == drawn(5, 1));  // more values leave the first ones alone
  }

  TEST_CASE("varied configs: a base in a file beside, and overrides") {
    const test::TextFolder folder(10);
    std::ofstream(folder.path + "/base.yaml") << "batch: 5\nparts: [{size: 2}]\n";
    std::ofstream(folder.path + "/s.yaml") << "base: base.yaml\nrates: [1]\nseeds: [1]\n";
    const VariedConfig v = VariedConfig::from_file(
        folder.path + "/s.yaml", {"base.batch=6", "rates=[2, 3]"}, {{"rates", "lr"}});
    CHECK(base_of(v, {1}).batch == 6);
    CHECK(base_of(v, {1}).lr == 3);
  }

  TEST_CASE("varied configs: what is wrong, and where") {
    const auto said = [](const std::string& more, const std::vector<std::string>& set = {}) {
      return test::message([&] { read(more, set); });
    };
    for (const auto& [text, wanted] : std::vector<std::pair<std::string, const char*>>{
             {"axes: {batch: []}\n", "s.yaml:2:15: batch: the list is empty"},
             {"axes: {batch: 4}\n",
              "s.yaml:2:15: batch: a list of values is expected, got '4'; "
              "write [4]"},
             {"axes: {batch: [1, 2, 1]}\n", "s.yaml:2:8: axes: batch: 1 is listed twice"},
             {"axes: {batch: [1], zip: {batch: [1], lr: [2]}}\n",
              "batch is varied twice, at s.yaml:2:8 already"},
             {"axes: {zip: {batch: [1, 2], lr: [2]}}\n", "batch has 2 values, lr has 1"},
             {"axes: {lr: [1]}\nrates: [1]\n", "lr is varied twice"},
             {"axes: [batch]\n", "axes: a map of paths with the values of each is expected"},
             {"axes: {a..b: [1]}\n", "'a..b' is not a path of keys"},
             {"rates: {log_space: [1, 2]}\n", "s.yaml:2:9: count: this key is required"},
             {"rates: {log_space: [2, 1], count: 2}\n", "LOW below HIGH"},
             {"rates: {log_unifrom: [2, 1], count: 2}\n", "did you mean 'log_uniform'?"},
             {"axes: {zip: [1]}\n", "axes.zip: a map of paths"}}) {
      CAPTURE(text);
      const std::string message = said(text);
      INFO(message);
      CHECK(test::says(message, wanted));
    }
    CHECK(test::says(test::message([] { VariedConfig::from_text("name: a\n", "s.yaml", {}); }),
                     "s.yaml:1:1: base: the config that is varied is expected"));
    CHECK(test::says(said("", {"axes.batch=[1]"}), "axes and base are changed in the file"));
    // What only the base knows is said when it is read, at the value's own place.
    const VariedConfig v = read("axes:\n  parts.0.siez: [4]\n  batch: [0]\n");
    CHECK(test::says(test::message([&] {
                       base_of(v, {0, -1});
                     }),
                     "s.yaml:3:18: parts.0.siez: unknown key, did you mean 'size'?"));
    CHECK(test::says(test::message([&] {
                       base_of(v, {-1, 0});
                     }),
                     "s.yaml:4:11: batch: an integer >= 1 is expected, got '0'"));
  }
}
