// Whole runs: resuming, stopping, ranks.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>

#include "experiments/checkpoint.h"
#include "experiments/run_file.h"
#include "tests/e2e/program.h"
#include "tests/support/skip.h"

using namespace ls;
using testing::Outcome;
using testing::Workplace;

namespace {

const std::string kConfig =
    "name: run\n"
    "task: {name: parity, length: 12, test_lengths: [12], test_examples: 8}\n"
    "models:\n"
    "  - {layers: [deltanet, attention], width: 16, channel: none, name: m}\n"
    "steps: 60\n"
    "batch: 4\n"
    "schedule: {name: cosine, warmup_steps: 5}\n"
    "checkpoint: {every: 3}\n";

std::vector<double> parameters_of(const std::string& path) {
  std::vector<double> all;
  for (const auto& [name, value] : experiments::load_checkpoint(path).parameters) {
    const std::vector<double> v = value.to_vector<double>();
    all.insert(all.end(), v.begin(), v.end());
  }
  return all;
}

}  // namespace

TEST_SUITE("e2e") {
  TEST_CASE("a run killed at any moment resumes to the same bits") {
    const Workplace w;
    // Most of the time goes into writing checkpoints, so that many kills fall into that.
    const std::string config =
        "extend: base.yaml\nmodels:\n  - {layers: [deltanet, attention], "
        "width: 64, channel: none, name: m}\nsteps: 90\n"
        "log_every: 1\neval: {every: 7}\ncheckpoint: {every: 1}\n";
    w.write("base.yaml", kConfig);
    w.write("run.yaml", config);
    const auto begin = std::chrono::steady_clock::now();
    REQUIRE(w.run({"train", "run.yaml", "--set", "output=whole"}).status == 0);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    const std::string last = "/run/m/seed0/checkpoints/step_000000090.h5";
    std::uint64_t random = 12345;
    int kills = 0, half_written = 0;
    while (kills < 25) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      const double after = 0.2 * took.count() * static_cast<double>(random >> 40) / (1 << 24);
      const Outcome out =
          w.run({"train", "run.yaml", "--resume"},
                {.signal = SIGKILL, .signal_after_s = after, .signal_when = "runs/run/.lock"});
      if (out.status == 0) {
        break;
      }
      REQUIRE(out.status == 128 + SIGKILL);
      ++kills;
      for (const std::string& saved :
           experiments::list_checkpoints(w.path("runs/run/m/seed0/checkpoints"))) {
        CHECK_NOTHROW(experiments::load_checkpoint(saved));
      }
      if (std::filesystem::exists(w.path("runs/run/m/seed0/checkpoints"))) {
        for (const auto& entry :
             std::filesystem::directory_iterator(w.path("runs/run/m/seed0/checkpoints"))) {
          half_written += entry.path().extension() == ".tmp";
        }
      }
    }
    const Outcome end = w.run({"train", "run.yaml", "--resume"});
    INFO(end.text);
    REQUIRE(end.status == 0);
    CHECK(kills > 0);
    MESSAGE(kills << " kills, " << half_written << " of them while a checkpoint was written");
    CHECK(parameters_of(w.path("runs" + last)) == parameters_of(w.path("whole" + last)));
    const std::string a = w.read("whole/run/m/seed0/metrics.jsonl"),
                      b = w.read("runs/run/m/seed0/metrics.jsonl");
    for (const char* key : {"step", "loss", "grad_norm", "tok_acc"}) {
      CHECK(testing::numbers(a, key) == testing::numbers(b, key));
    }
  }

  TEST_CASE("a signal during the last evaluation, between models, and twice") {
    const Workplace w;
    w.write("run.yaml",
            "name: run\n"
            "task: {name: parity, length: 8, test_lengths: [8], test_examples: 60000}\n"
            "models:\n"
            "  - {layers: [deltanet], width: 8, channel: none, name: a}\n"
            "  - {layers: [deltanet], width: 8, channel: none, name: b}\n"
            "steps: 3\nbatch: 2\n");
    const std::string a = "runs/run/a/seed0/", b = "runs/run/b/seed0/";
    Outcome out = w.run({"train", "run.yaml"},
                        {.signal = SIGTERM, .signal_when = a + "checkpoints/step_000000003.h5"});
    INFO(out.text);
    CHECK(out.status == 128 + SIGTERM);
    CHECK(out.text.find("after update 3; saved, go on with --resume") != std::string::npos);
    CHECK(testing::numbers(w.read(a + "metrics.jsonl"), "tok_acc").empty());

    std::filesystem::remove(w.path(a + "run.h5"));
    out = w.run({"train", "run.yaml", "--resume"}, {.signal = SIGINT, .signal_when = a + "run.h5"});
    INFO(out.text);
    CHECK(out.status == 128 + SIGINT);
    CHECK(testing::numbers(w.read(a + "metrics.jsonl"), "tok_acc").size() == 1);
    const std::string first = w.read(a + "metrics.jsonl");

    out = w.shell(
        "$longscan train run.yaml --resume >two.txt 2>&1 & first=$!\n"
        "while [ ! -s runs/run/b/seed0/config.yaml ]; do sleep 0.02; done\n"
        "kill -TERM $first; kill -INT $first; wait $first; echo status $?\n");
    INFO(out.text);
    CHECK((out.text.find("status 130") != std::string::npos ||
           out.text.find("status 143") != std::string::npos));
    out = w.run({"train", "run.yaml", "--resume"});
    INFO(out.text);
    REQUIRE(out.status == 0);
    CHECK(w.read(a + "metrics.jsonl") == first);  // what was finished is not done again
    CHECK(testing::numbers(w.read(b + "metrics.jsonl"), "tok_acc").size() == 1);
  }

  TEST_CASE("several models and seeds end in one table, one figure and complete records") {
    const Workplace w;
    w.write("run.yaml", kConfig + "seeds: [0, 1, 2]\nlog_every: 1\n");
    w.write("two.yaml",
            "extend: run.yaml\nmodels:\n  - {layers: [deltanet, attention], width: 16, channel: "
            "none, name: m}\n  - {layers: [lstm], width: 16, name: other one}\n");
    const Outcome out =
        w.run({"train", "two.yaml", "--set", "steps=6", "--set", "eval.baselines=true"});
    INFO(out.text);
    REQUIRE(out.status == 0);
    for (const char* part :
         {"m ", "other one ", "(exact) ", "(3-gram) ", "±", "parameters", "state bytes", "tok_acc",
          "tokens/s", "runs/run/other one/seed{0,1,2}/checkpoints/step_000000006.h5",
          "runs/run/m/seed{0,1,2}/metrics.jsonl", "runs/run/table.txt"}) {
      CAPTURE(part);
      CHECK(out.text.find(part) != std::string::npos);
    }
    CHECK(out.text.find(w.read("runs/run/table.txt")) != std::string::npos);
    const bool drawn = out.text.find("runs/run/figure.svg") != std::string::npos;
    CHECK((drawn || out.text.find("gnuplot is not installed") != std::string::npos));
    CHECK(drawn == std::filesystem::exists(w.path("runs/run/figure.svg")));
    if (!drawn) {
      test::skipped("gnuplot is not installed, no figure is looked at");
    }

    const experiments::RunResult record =
        experiments::read_run_record(w.path("runs/run/m/seed1")).result;
    CHECK(record.seed == 1);
    CHECK(record.complete);
    CHECK(record.wall_seconds > record.train_seconds);
    CHECK(record.train_seconds > 0);
    CHECK(record.state.total() > 0);
    CHECK(record.forms.at("delta_rule").starts_with("chunk of"));
    CHECK(record.forms.at("attention") == "blocks");
    for (const char* key : {"commit", "compiler", "flags", "hdf5", "yaml-cpp", "matrix products",
                            "cpu", "threads", "started"}) {
      CAPTURE(key);
      CHECK(std::ranges::count(record.provenance, key,
                               &experiments::Provenance::value_type::first) == 1);
    }
    const experiments::LoadedCheckpoint saved =
        experiments::load_checkpoint(w.path("runs/run/m/seed1/checkpoints/step_000000006.h5"));
    CHECK(saved.data.seed == 1);
    CHECK(saved.data.provenance.size() >= 15);
    // The resolved config, read back, is the same config.
    const Outcome again = w.run({"config", "runs/run/m/seed1/config.yaml"});
    CHECK(again.text.find("hash " + saved.data.part_hash + " of m") != std::string::npos);
    CHECK(record.part_hash == saved.data.part_hash);
    // Without gnuplot the run succeeds and says so.
    const Outcome plain = w.shell("PATH=/nowhere $longscan train two.yaml --set steps=5 --fresh");
    INFO(plain.text);
    CHECK(plain.status == 0);
    CHECK(plain.text.find("gnuplot is not installed") != std::string::npos);
  }

  TEST_CASE("SIGINT and SIGTERM save and leave") {
    for (const int sig : {SIGINT, SIGTERM}) {
      const Workplace w;
      w.write("run.yaml", kConfig);
      const Outcome out =
          w.run({"train", "run.yaml", "--set", "steps=1000000", "--set", "checkpoint.every=0"},
                {.signal = sig, .signal_when = "runs/run/m/seed0/metrics.jsonl"});
      INFO(out.text);
      CHECK(out.status == 128 + sig);
      CHECK(out.text.find("--resume") != std::string::npos);
      CHECK(experiments::list_checkpoints(w.path("runs/run/m/seed0/checkpoints")).size() == 1);
    }
  }

  TEST_CASE("carried states are saved and resumed") {
    const Workplace w;
    std::string text;
    for (int i = 0; i < 12000; ++i) {
      text += "abcde fghij "[i * 7 % 12];
    }
    w.write("a.txt", text.substr(0, 5000));
    w.write("run.yaml",
            "name: run\n"
            "task: {name: bytes, path: text, length: 16, test_windows: 4}\n"
            "models: [{layers: [gated_deltanet], width: 16, channel: none, name: m}]\n"
            "steps: 20\nbatch: 2\nstate: tbptt\n");
    for (int i = 0; i < 12; ++i) {
      w.write("text/" + std::to_string(i) + ".txt", text + text);
    }
    w.write("set.yaml",
            "extend: run.yaml\nmodels: [{layers: [{name: gated_deltanet, heads: 1, head_dim: 8}], "
            "width: 16, channel: none, name: m}]\n");
    const Outcome whole = w.run({"train", "set.yaml", "--set", "output=whole"});
    INFO(whole.text);
    REQUIRE(whole.status == 0);
    const Outcome first =
        w.run({"train", "set.yaml", "--set", "checkpoint.every=5"},
              {.signal = SIGTERM, .signal_when = "runs/run/m/seed0/checkpoints/step_000000005.h5"});
    const Outcome rest = w.run({"train", "set.yaml", "--set", "checkpoint.every=5", "--resume"});
    INFO(first.text << rest.text);
    REQUIRE(rest.status == 0);
    CHECK(parameters_of(w.path("runs/run/m/seed0/checkpoints/step_000000020.h5")) ==
          parameters_of(w.path("whole/run/m/seed0/checkpoints/step_000000020.h5")));
  }

  TEST_CASE("bench: one line of facts, and the time by op") {
    const Workplace w;
    w.write("run.yaml", kConfig);
    const Outcome out = w.run({"bench", "run.yaml", "--steps", "2", "--warmup", "0", "--ops"});
    REQUIRE(out.status == 0);
    for (const char* expected : {"\"tokens_per_s\":", "\"first_step_s\":", "delta_rule",
                                 "attention", "backward", "optimizer", "the rest"}) {
      CHECK_MESSAGE(out.text.find(expected) != std::string::npos, expected << " in " << out.text);
    }
  }

  TEST_CASE("bench --decode: a line for each number of rows; what cannot write is refused") {
    const Workplace w;
    w.write("run.yaml",
            "name: run\ntask: {name: random_tokens, vocab: 32, length: 16}\n"
            "models: [{layers: [{name: gated_deltanet, heads: 1, head_dim: 8}, attention], width: "
            "16}]\n");
    const Outcome out = w.run({"bench", "run.yaml", "--decode", "--rows", "1", "--rows", "3",
                               "--context", "20", "--steps", "9", "--ops"});
    INFO(out.text);
    REQUIRE(out.status == 0);
    for (const char* expected : {"\"rows\":1,", "\"rows\":3,", "\"context\":20,",
                                 "\"of_floor\":", "\"state_bytes\":", "attention", "the rest"}) {
      CHECK_MESSAGE(out.text.find(expected) != std::string::npos, expected << " in " << out.text);
    }
    CHECK(w.run({"bench", "run.yaml", "--decode", "--rows", "0"}).status == 2);
    const Outcome refused = w.run({"bench", "run.yaml", "--decode", "--set",
                                   "task={name: mqar, variant: continuous, train: [{pairs: 4, "
                                   "updates: 4}], test: [{pairs: 4, updates: 4}]}"});
    CHECK(refused.status == 1);
    CHECK(refused.text.find("bench --decode feeds a model what it wrote") != std::string::npos);
  }

  TEST_CASE("the same config gives the same bits on one and on two threads") {
    const Workplace w;
    w.write("run.yaml", kConfig);
    REQUIRE(w.run({"--threads", "1", "train", "run.yaml", "--set", "output=one"}).status == 0);
    REQUIRE(w.run({"--threads", "2", "train", "run.yaml", "--set", "output=two"}).status == 0);
    CHECK(parameters_of(w.path("one/run/m/seed0/checkpoints/step_000000060.h5")) ==
          parameters_of(w.path("two/run/m/seed0/checkpoints/step_000000060.h5")));
  }
}
