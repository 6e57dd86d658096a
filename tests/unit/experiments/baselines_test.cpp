#include "experiments/baselines.h"

#include <doctest/doctest.h>

#include <map>

#include "core/config/yaml.h"

using namespace ls;
using namespace ls::experiments;

namespace {

/// Headline metric of each baseline on the first slice.
std::map<std::string, double> baselines(const std::string& task) {
  const auto config = read_config_text<RunConfig>(
      "{name: x, models: [{layers: [gla]}], steps: 200, task: " + task + "}");
  std::map<std::string, double> out;
  for (const RunResult& r : baseline_results(config, 1)) {
    const auto* value = r.history.at(0).slices.at(0).metrics.find(r.metrics.at(0));
    const bool nearest = r.model.starts_with("(nearest of ") && r.model.ends_with(" examples)");
    out[nearest ? "(nearest)" : r.model] = value == nullptr ? -1 : *value;
    CHECK(r.history[0].slices[0].metrics.find("loss") == nullptr);
  }
  return out;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("baselines: what each of them solves, and what none does") {
    auto induction = baselines("{name: induction, test_lengths: [64], test_examples: 200}");
    CHECK(induction["(exact)"] == 1);
    CHECK(induction["(longest match)"] > 0.99);
    CHECK(induction["(3-gram in context)"] > 0.9);
    CHECK(induction["(3-gram)"] < 0.2);
    CHECK(induction["(nearest)"] < 0.2);

    auto parity = baselines("{name: parity, test_lengths: [20], test_examples: 200}");
    CHECK(parity["(exact)"] == 1);
    CHECK(parity["(3-gram)"] < 0.7);  // the first three positions
    CHECK(parity["(nearest)"] < 0.9);

    auto short_sum = baselines(
        "{name: modular_arithmetic, modulus: 3, length: 3, test_lengths: [3], test_examples: 50}");
    CHECK(short_sum["(3-gram)"] > 0.95);
    CHECK(short_sum["(nearest)"] == 1);

    auto regression = baselines("{name: regression, test_examples: 100}");
    CHECK(regression.size() == 4);
    CHECK(regression["(least_squares)"] < regression["(averaging)"]);

    // The error by tag: with fewer points than dimensions averaging is the better of the two.
    const auto config = read_config_text<RunConfig>(
        "{name: x, models: [{layers: [gla]}], task: {name: regression, test_examples: 100}}");
    std::map<std::string, Metrics> metrics;
    for (const RunResult& r : baseline_results(config, 1)) {
      metrics[r.model] = r.history.at(0).slices.at(0).metrics;
    }
    const Metrics& exact = metrics.at("(least_squares)");
    CHECK(exact.at("nmse/n_points") < exact.at("nmse"));
    CHECK(exact.at("nmse") < exact.at("nmse/few_points"));

    auto language = baselines("{name: in_context_language, examples: 20}");
    CHECK(language["(3-gram in context)"] > 0.8);
    CHECK(language["(3-gram)"] < language["(3-gram in context)"]);
  }
}
