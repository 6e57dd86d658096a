// eval --lengths as a user runs it: table, files, figures, limits and refusals.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/types.h"
#include "tests/e2e/program.h"

using namespace ls;
using testing::Outcome;
using testing::Workplace;

namespace {

std::string run_of(const std::string& task, const std::string& layers) {
  return "name: run\ntask: " + task + "\nmodels: [{layers: " + layers +
         ", width: 16, channel: none, name: m}]\nsteps: 3\nbatch: 4\neval: {batch: 4}\n";
}

const std::string kLast = "runs/run/m/seed0/checkpoints/step_000000003.h5";
const std::string kParity = "{name: parity, length: 8, test_examples: 8}";

Index lines_of(const std::string& text) {
  return std::ranges::count(text, '\n');
}

void train(const Workplace& w, const std::string& config) {
  w.write("run.yaml", config);
  const Outcome train = w.run({"train", "run.yaml"});
  INFO(train.text);
  REQUIRE(train.status == 0);
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_SUITE("e2e") {
  TEST_CASE("eval --lengths: a table, records and figures") {
    const Workplace w;
    train(w, run_of(kParity, "[deltanet, {name: attention, heads: 2}]"));
    const Outcome out = w.run({"eval", kLast, "--lengths", "1x..8x", "--output", "out", "--set",
                               "eval.segment=16", "--set", "eval.max_tokens=256"});
    INFO(out.text);
    REQUIRE(out.status == 0);
    CHECK(has(out.text, "trained on up to 8 tokens"));
    CHECK(has(out.text, "T64"));
    CHECK(has(out.text, "4 of 8 examples (eval.max_tokens)"));
    CHECK(has(out.text, "effective remembrance after 32 tokens: without the first 16"));
    CHECK(has(out.text, "accuracy below 0.9"));
    CHECK(has(out.text, "effective rank at 8"));
    const auto j = nlohmann::ordered_json::parse(w.read("out/lengths.json"));
    REQUIRE(j.at("lengths").size() == 4);
    CHECK(j.at("train_length") == 8);
    CHECK(j.at("lengths")[3].at("length") == 64);
    CHECK(j.at("lengths")[3].at("left_out") == 4);
    CHECK(j.at("lengths")[3].at("state_bytes").at("kv") == 2 * 64 * 16 * 4);
    CHECK(j.at("states").size() > 0);
    CHECK(lines_of(w.read("out/lengths.csv")) == 5);
    CHECK(lines_of(w.read("out/states.csv")) == static_cast<Index>(j.at("states").size()) + 1);
    CHECK(has(w.read("out/positions.csv"), "slice,from,to,labels,loss,accuracy\n"));
    CHECK(lines_of(w.read("out/remembrance.csv")) > 2);
    CHECK(lines_of(w.read("out/spread.csv")) > 2);
    CHECK(has(out.text, "out/lengths.csv"));
    // The same as one line.
    const Outcome line = w.run({"eval", kLast, "--lengths", "1x..8x", "--json", "--set",
                                "eval.segment=16", "--set", "eval.max_tokens=256"});
    REQUIRE(line.status == 0);
    const auto same = nlohmann::ordered_json::parse(line.text);
    CHECK(same.at("states") == j.at("states"));
    CHECK(same.at("positions") == j.at("positions"));
  }

  TEST_CASE("eval --lengths: what is not run is a row in every form") {
    const Workplace w;
    train(w, run_of(kParity, "[{name: attention, heads: 2}]"));
    const Outcome out = w.run(
        {"eval", kLast, "--lengths", "8,64", "--output", "out", "--set", "eval.max_tokens=32"});
    INFO(out.text);
    REQUIRE(out.status == 0);
    CHECK(has(out.text, "not run: needs 64 tokens"));
    const auto j = nlohmann::ordered_json::parse(w.read("out/lengths.json"));
    CHECK(j.at("lengths")[1].at("not_run") == "needs 64 tokens, eval.max_tokens is 32");
    CHECK(has(w.read("out/lengths.csv"), "\"needs 64 tokens, eval.max_tokens is 32\""));
    if (std::filesystem::exists(w.path("out/figure.svg"))) {
      CHECK(has(w.read("out/figure.svg"), "64: not run"));
    }
    const Outcome memory =
        w.run({"eval", kLast, "--lengths", "8", "--set", "eval.max_memory=1000"});
    INFO(memory.text);
    CHECK(memory.status == 0);
    CHECK(has(memory.text, "eval.max_memory is 1000 B"));
  }

  TEST_CASE("eval --lengths: depth by length is a map") {
    const Workplace w;
    train(w, run_of("{name: passkey, length: 128, test_lengths: [128], test_examples: 2, "
                    "test_depths: [0, 1]}",
                    "[deltanet]"));
    const Outcome out = w.run({"eval", kLast, "--lengths", "1x,2x", "--output", "out"});
    INFO(out.text);
    REQUIRE(out.status == 0);
    const std::string svg = w.read("out/depths.svg");
    CHECK(has(svg, "depth in %"));
    CHECK(has(svg, ">1024<"));
    CHECK(lines_of(w.read("out/depths.csv")) == 5);
  }

  TEST_CASE("eval --lengths: what cannot be is said") {
    const Workplace w;
    train(w, run_of("{name: mqar, vocab: 64, train: [{pairs: 4}], test: [{pairs: 4, examples: 4}]}",
                    "[deltanet]"));
    const Outcome none = w.run({"eval", kLast, "--lengths", "1x,2x"});
    CHECK(none.status == 1);
    CHECK(has(none.text, "task 'mqar' has no test_lengths; those that have:"));
    CHECK(has(none.text, "parity"));
    const Outcome alone = w.run({"eval", kLast, "--output", "out"});
    CHECK(alone.status == 1);
    CHECK(has(alone.text, "belong to --lengths"));
    const Workplace p;
    train(p, run_of(kParity, "[deltanet]"));
    const Outcome wrong = p.run({"eval", kLast, "--lengths", "1y"});
    CHECK(wrong.status == 1);
    CHECK(has(wrong.text, "'1y' is no length"));
  }
}
