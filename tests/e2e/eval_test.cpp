// Numbers that users read: every value under its own name, in the order of the config.
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "core/base/types.h"
#include "experiments/run_file.h"
#include "tests/e2e/program.h"

using namespace ls;
using testing::Outcome;
using testing::Workplace;

namespace {

std::string run_of(const std::string& task, const std::string& more = "") {
  return "name: run\ntask: " + task +
         "\nmodels: [{layers: [deltanet], width: 8, channel: none, name: m}]\n"
         "steps: 3\nbatch: 4\neval: {batch: 3}\n" +
         more;
}

const std::string kLast = "runs/run/m/seed0/checkpoints/step_000000003.h5";

std::vector<std::vector<std::string>> table_of(const std::string& text) {
  std::vector<std::vector<std::string>> rows;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    std::istringstream cells(line);
    rows.emplace_back();
    for (std::string cell; cells >> cell;) {
      rows.back().push_back(cell);
    }
  }
  return rows;
}

}  // namespace

TEST_SUITE("e2e") {
  TEST_CASE("eval: slices of different kinds are records, and each value has its own name") {
    const Workplace w;
    w.write("run.yaml", run_of("{name: mqar, variant: forgetting, vocab: 64, train: [{pairs: 4, "
                               "updates: 2}], test: [{pairs: 4, updates: 4, examples: 20}, {pairs: "
                               "8, updates: 4, examples: 20}, {pairs: 4, updates: 0, examples: "
                               "20}]}"));
    const Outcome train = w.run({"train", "run.yaml"});
    INFO(train.text);
    REQUIRE(train.status == 0);
    CHECK(train.text.find("tok_acc/updated, tok_acc/untouched") != std::string::npos);
    const Outcome json = w.run({"eval", kLast, "--json"});
    INFO(json.text);
    REQUIRE(json.status == 0);
    const auto j = nlohmann::ordered_json::parse(json.text);
    CHECK(j.at("step") == 3);
    CHECK(j.at("split") == "test");
    REQUIRE(j.at("eval").size() == 3);
    const auto& slices = j.at("eval");
    CHECK(slices[0].at("slice") == "T24.K4.U4");
    CHECK(slices[1].at("slice") == "T40.K8.U4");
    CHECK(slices[1].at("length") == 40);
    CHECK(slices[1].at("setting") == nlohmann::ordered_json({{"pairs", 8}, {"updates", 4}}));
    CHECK(slices[1].at("labels") == 160);
    CHECK(slices[0].at("metrics").contains("tok_acc/updated"));
    CHECK(!slices[0].at("metrics").contains("tok_acc/untouched"));
    CHECK(slices[1].at("metrics").contains("tok_acc/untouched"));
    CHECK(!slices[2].at("metrics").contains("tok_acc/updated"));
    for (const auto& s : slices) {
      Index labels = 0;
      double loss = 0, accuracy = 0;
      const auto& p = s.at("positions");
      for (std::size_t i = 0; i < p.at("from").size(); ++i) {
        const Index n = p.at("labels")[i];
        labels += n;
        loss += p.at("loss")[i].get<double>() * static_cast<double>(n);
        accuracy += p.at("accuracy")[i].get<double>() * static_cast<double>(n);
        CHECK(p.at("to")[i] == 2 * p.at("from")[i].get<Index>() - 1);
      }
      CHECK(s.at("labels") == labels);
      const auto n = static_cast<double>(labels);
      CHECK(loss / n == doctest::Approx(s.at("metrics").at("loss").get<double>()));
      CHECK(accuracy / n == doctest::Approx(s.at("metrics").at("tok_acc").get<double>()));
    }
    // The same numbers as columns of one table.
    const Outcome text = w.run({"eval", kLast});
    INFO(text.text);
    const auto rows = table_of(text.text);
    REQUIRE(rows.size() == 6);
    CHECK(rows[0] == std::vector<std::string>{"m", "after", "3", "updates"});
    const std::vector<std::string> header = {
        "test",   "slice",   "length",  "pairs", "updates",         "labels",
        "ex_acc", "tok_acc", "seq_acc", "loss",  "tok_acc/updated", "tok_acc/untouched"};
    CHECK(rows[1] == header);
    for (std::size_t s = 0; s < 3; ++s) {
      REQUIRE(rows[3 + s].size() == header.size() - 1);
      for (std::size_t c = 6; c < header.size(); ++c) {
        const auto& metrics = slices[s].at("metrics");
        const std::string& cell = rows[3 + s][c - 1];
        CAPTURE(header[c]);
        if (metrics.contains(header[c])) {
          CHECK(std::stod(cell) ==
                doctest::Approx(metrics.at(header[c]).get<double>()).epsilon(1e-3));
        } else {
          CHECK(cell == "-");
        }
      }
    }
  }

  TEST_CASE("eval: lengths stay in the order of the config") {
    const Workplace w;
    w.write("run.yaml", run_of("{name: parity, length: 8, test_lengths: [20, 40, 80, 240], "
                               "test_examples: 4}"));
    const Outcome train = w.run({"train", "run.yaml"});
    INFO(train.text);
    REQUIRE(train.status == 0);
    const std::string header = train.text.substr(train.text.find("\nmodel"));
    CHECK(header.find("T20 ") < header.find("T40 "));
    CHECK(header.find("T40 ") < header.find("T80 "));
    CHECK(header.find("T80 ") < header.find("T240 "));
    const auto j = nlohmann::ordered_json::parse(w.run({"eval", kLast, "--json"}).text);
    std::vector<Index> lengths;
    for (const auto& s : j.at("eval")) {
      lengths.push_back(s.at("length"));
    }
    CHECK(lengths == std::vector<Index>{20, 40, 80, 240});
    CHECK(j.at("eval")[3].at("positions").at("to") ==
          std::vector<Index>{1, 3, 7, 15, 31, 63, 127, 255});
    const Outcome drawn = w.run({"eval", kLast, "--figure", "by_position.svg"});
    CHECK(drawn.status == 0);
    CHECK(w.read("by_position.gp").find("'T240'") != std::string::npos);
  }

  TEST_CASE("an evaluation without a target is an error that names the data, before training") {
    const Workplace w;
    for (int i = 0; i < 3; ++i) {
      w.write("single/" + std::to_string(i), "x");  // nothing comes after the first byte
    }
    w.write("text", std::string(20000, 'a'));
    w.write("run.yaml", run_of("{name: bytes, path: text, length: 8}"));
    const std::string wanted = "no example of the valid slice 'T1' has a target";
    const Outcome train = w.run(
        {"train", "run.yaml", "--set", "task.valid_path=single", "--set", "task.test_lengths=[1]"});
    INFO(train.text);
    CHECK(train.status == 1);
    CHECK(train.text.find(wanted) != std::string::npos);
    CHECK(train.text.find("task 'bytes'") != std::string::npos);
    CHECK(train.text.find("run.yaml:2:") != std::string::npos);
    CHECK(w.read("runs/run/m/seed0/metrics.jsonl").empty());
    REQUIRE(w.run({"train", "run.yaml"}).status == 0);
    const Outcome eval =
        w.run({"eval", kLast, "--set", "task.valid_path=single", "--set", "task.test_lengths=[1]"});
    INFO(eval.text);
    CHECK(eval.status == 1);
    CHECK(eval.text.find(wanted) != std::string::npos);
    CHECK(eval.text.find("nan") == std::string::npos);
  }

  TEST_CASE("train names the best checkpoint; eval of a carried run is carried, too") {
    const Workplace w;
    std::string text;
    for (int i = 0; i < 20000; ++i) {
      text += "abcdefghij klmn"[i * i % 15];
    }
    w.write("text", text);
    w.write("run.yaml", run_of("{name: bytes, path: text, split: tail, length: 16}",
                               "state: tbptt\ncheckpoint: {best: loss}\n"));
    const Outcome train = w.run({"train", "run.yaml", "--set", "eval.every=1"});
    INFO(train.text);
    REQUIRE(train.status == 0);
    CHECK(train.text.find("best        runs/run/m/seed0/checkpoints/best.h5") != std::string::npos);
    const experiments::RunResult result =
        experiments::read_run_record(w.path("runs/run/m/seed0")).result;
    REQUIRE(result.best);
    CHECK(result.best->metric == "loss");
    const auto j = nlohmann::ordered_json::parse(w.run({"eval", kLast, "--json"}).text);
    REQUIRE(j.at("eval").size() == 2);
    CHECK(j.at("eval")[1].at("slice") == "T16.carried");
    CHECK(j.at("eval")[0].at("labels") == 999);
    CHECK(j.at("eval")[1].at("labels") == 999);
    const nlohmann::ordered_json last = result.history.back();
    CHECK(j.at("eval") == last.at("eval"));
    const Outcome fresh = w.run(
        {"train", "run.yaml", "--set", "eval.every=1", "--fresh", "--set", "checkpoint.best=\"\""});
    CHECK(fresh.status == 0);
    CHECK(w.read("runs/run/m/seed0/checkpoints/best.h5").empty());
  }
}
