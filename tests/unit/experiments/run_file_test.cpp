// The record of a run: what goes in comes out, and the one before stays where it cannot go in.
#include "experiments/run_file.h"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/io/files.h"
#include "tests/support/errors.h"
#include "tests/support/text_folder.h"

using namespace ls;
using namespace ls::experiments;
namespace fs = std::filesystem;

namespace {

RunResult result() {
  RunResult r{.run = "run", .model = "a model", .metrics = {"tok_acc", "nmse"}, .seed = 3};
  r.complete = true;
  r.part_hash = "abc";
  r.steps = 20;
  r.tokens = Index{1} << 50;
  r.train_seconds = 0.1;
  r.train_loss = NAN;
  r.state = {.matrix = 512, .conv = 8};
  r.state_sizes = {{8, {.matrix = 512}}, {16, {.kv = 3}}};
  r.forms = {{"delta_rule", "chunk of 64"}};
  r.best = TrainingLog::Best{"loss", 0.25, 10};
  r.data = {{"task.path", 2, 100, "names", "content"}};
  r.provenance = {{"commit", "123"}, {"cpu", "one"}, {"a", "last"}};
  r.config = R"({"name":"run","lr":0.001})";
  SliceResult one{.name = "T8", .length = 8, .setting = {{"pairs", 4}}, .examples = 7};
  one.labels = 70;
  one.metrics.values = {{"tok_acc", 1.0 / 3}, {"loss", NAN}};
  one.positions = {{1, 1, 7, 0.5, 0.25}, {2, 3, 14, NAN, 0}};
  SliceResult two{.name = "T64", .length = 64, .left_out = 2, .not_run = "needs 9 GiB"};
  SliceResult three{.name = "T8", .length = 8, .setting = {{"depth", 0}}};
  three.metrics.values = {{"tok_acc", 0.5}, {"tok_acc/tag", 0.75}};
  r.history = {{.step = 10, .split = data::Split::kValid, .slices = {one, two}, .seconds = 0.5},
               {.step = 20, .split = data::Split::kValid, .slices = {three}, .seconds = 1},
               {.step = 20, .split = data::Split::kTest, .slices = {one}, .seconds = 1}};
  return r;
}

std::string text_of(const std::vector<Evaluation>& history) {
  return nlohmann::ordered_json(history).dump();
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("record of a run: all of it comes back, to the bit") {
    const test::TextFolder folder(1);
    const RunResult wanted = result();
    const std::vector<LogLine> log = {
        {.step = 5, .loss = NAN, .lr = 1e-3, .grad_norm = NAN, .tokens = 40, .without_targets = 5},
        {.step = 10, .loss = 1.0 / 3, .lr = 2e-3, .grad_norm = 0.7, .tokens = 80, .seconds = 0.2}};
    CHECK_FALSE(has_run_record(folder.path));
    write_run_record(folder.path, wanted, log);
    CHECK(has_run_record(folder.path));
    const RunRecord got = read_run_record(folder.path);
    CHECK(got.result.facts().dump() == wanted.facts().dump());
    CHECK(text_of(got.result.history) == text_of(wanted.history));
    CHECK(got.result.history[1].seconds == 1);
    CHECK(got.result.history[0].slices[0].metrics.at("tok_acc") == 1.0 / 3);
    CHECK(std::isnan(got.result.history[0].slices[0].metrics.at("loss")));
    CHECK(got.result.history[1].slices[0].metrics.find("loss") == nullptr);
    REQUIRE(got.log.size() == 2);
    for (std::size_t i = 0; i < 2; ++i) {
      CHECK(got.log[i].json() == log[i].json());
      CHECK(LogLine::from_json(log[i].json())->json() == log[i].json());
    }
    // Nothing yet.
    RunResult none{.config = "{}"};
    write_run_record(folder.path, none, {});
    CHECK(read_run_record(folder.path).result.history.empty());
    CHECK(read_run_record(folder.path).log.empty());
  }

  TEST_CASE("record of a run: what cannot be written leaves the one before") {
    const test::TextFolder folder(1);
    write_run_record(folder.path, result(), {});
    const std::string before = read_file(run_file(folder.path));
    fs::create_symlink("/dev/full", run_file(folder.path) + ".tmp");
    const std::string fault =
        test::message([&] { write_run_record(folder.path, result(), {{.step = 1}}); });
    CHECK(test::says(fault, "the disk is full"));
    CHECK(test::says(fault, "run.h5"));
    CHECK(read_file(run_file(folder.path)) == before);
    write_run_record(folder.path, result(), {{.step = 1}});
    CHECK(read_run_record(folder.path).log.size() == 1);
  }

  TEST_CASE("record of a run: those of earlier programs are read, others refused") {
    const test::TextFolder folder(1);
    nlohmann::ordered_json old = result().facts();
    old["history"] = result().history;
    replace_file(folder.path + "/result.json", old.dump());
    replace_file(folder.path + "/metrics.jsonl",
                 "{\"step\":5,\"loss\":0.5,\"lr\":1,\"grad_norm\":null,\"tokens\":3}\n{\"step\":5,"
                 "\"eval\":[]}\n{\"st");
    const RunRecord got = read_run_record(folder.path);
    CHECK(got.result.model == "a model");
    CHECK(got.result.history.size() == 3);
    REQUIRE(got.log.size() == 1);
    CHECK(got.log[0].loss == 0.5);
    CHECK(std::isnan(got.log[0].grad_norm));
    // The new one counts where both are there.
    RunResult later = result();
    later.steps = 30;
    write_run_record(folder.path, later, {});
    CHECK(read_run_record(folder.path).result.steps == 30);
    fs::resize_file(run_file(folder.path), fs::file_size(run_file(folder.path)) / 2);
    CHECK(test::says(test::message([&] { read_run_record(folder.path); }), "move it away"));
  }
}
