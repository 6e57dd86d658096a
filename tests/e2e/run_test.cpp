// Whole runs: resuming, stopping, ranks.
#include <doctest/doctest.h>

#include <csignal>
#include <filesystem>

#include "experiments/checkpoint.h"
#include "tests/e2e/program.h"

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
    w.write("run.yaml", kConfig);
    REQUIRE(w.run({"train", "run.yaml", "--set", "output=whole"}).status == 0);
    const std::vector<double> whole =
        parameters_of(w.path("whole/run/m/seed0/checkpoints/step_000000060.h5"));
    int kills = 0;
    for (double after = 0.03; kills<12; after = after * 1.3> 0.4 ? 0.05 : after * 1.3) {
      const Outcome out =
          w.run({"train", "run.yaml", "--resume"}, {.signal = SIGKILL, .signal_after_s = after});
      if (out.status == 0) {
        break;
      }
      REQUIRE(out.status == 128 + SIGKILL);
      ++kills;
    }
    const Outcome last = w.run({"train", "run.yaml", "--resume"});
    INFO(last.text);
    REQUIRE(last.status == 0);
    CHECK(kills > 0);
    CHECK(parameters_of(w.path("runs/run/m/seed0/checkpoints/step_000000060.h5")) == whole);
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
            "steps: 20\nbatch: 2\nstate: carry\n");
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

  TEST_CASE("the same config gives the same bits on one and on two threads") {
    const Workplace w;
    w.write("run.yaml", kConfig);
    REQUIRE(w.run({"--threads", "1", "train", "run.yaml", "--set", "output=one"}).status == 0);
    REQUIRE(w.run({"--threads", "1", "train", "run.yaml", "--set", "output=again"}).status == 0);
    CHECK(parameters_of(w.path("one/run/m/seed0/checkpoints/step_000000060.h5")) ==
          parameters_of(w.path("again/run/m/seed0/checkpoints/step_000000060.h5")));
  }
}
