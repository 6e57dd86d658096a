// Runs that are given more updates, seeds and models, and runs that are moved: what is finished
// keeps its numbers, and what changes them is refused by name.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <csignal>
#include <filesystem>
#include <sstream>

#include "experiments/checkpoint.h"
#include "experiments/run_file.h"
#include "tests/e2e/program.h"

using namespace ls;
using testing::Outcome;
using testing::Workplace;

namespace {

namespace fs = std::filesystem;

const std::string kConfig =
    "name: run\n"
    "task: {name: parity, length: 12, test_lengths: [12], test_examples: 8}\n"
    "models:\n"
    "  - {layers: [deltanet], width: 16, channel: none, name: m}\n"
    "steps: 20\nbatch: 4\nlog_every: 1\neval: {every: 7}\ncheckpoint: {every: 5}\n";
const std::string kPart = "runs/run/m/seed0/";

std::string checkpoint_of(Index step, const std::string& part = kPart) {
  return fmt::format("{}checkpoints/step_{:09}.h5", part, step);
}

std::vector<double> parameters_of(const std::string& path) {
  std::vector<double> all;
  for (const auto& [name, value] : experiments::load_checkpoint(path).parameters) {
    const std::vector<double> v = value.to_vector<double>();
    all.insert(all.end(), v.begin(), v.end());
  }
  return all;
}

Outcome train(const Workplace& w, const std::vector<std::string>& set, bool resume = true) {
  std::vector<std::string> arguments = {"train", "run.yaml"};
  if (resume) {
    arguments.emplace_back("--resume");
  }
  for (const std::string& s : set) {
    arguments.insert(arguments.end(), {"--set", s});
  }
  return w.run(arguments);
}

void succeeds(const Outcome& out) {
  INFO(out.text);
  REQUIRE(out.status == 0);
}

/// Status 1, every part of `wanted` in the message, and no advice that deletes what is finished.
void refused(const Outcome& out, const std::vector<std::string>& wanted) {
  INFO(out.text);
  CHECK(out.status == 1);
  for (const std::string& text : wanted) {
    INFO("expected: " << text);
    CHECK(out.text.find(text) != std::string::npos);
  }
  CHECK(out.text.find("--fresh") == std::string::npos);
  CHECK(out.text.find("(hash") == std::string::npos);
}

/// Lines of updates and of evaluations, without what a clock measured.
std::vector<std::vector<double>> told(const std::string& metrics) {
  return {testing::numbers(metrics, "step"), testing::numbers(metrics, "loss"),
          testing::numbers(metrics, "lr"), testing::numbers(metrics, "grad_norm"),
          testing::numbers(metrics, "tok_acc")};
}

}  // namespace

TEST_SUITE("e2e") {
  TEST_CASE("more steps: the same bits as a run that had them from the start") {
    const Workplace w;
    w.write("run.yaml", kConfig);
    succeeds(train(w, {"steps=45", "output=whole"}, false));
    succeeds(train(w, {}, false));
    const std::string first = w.read(kPart + "metrics.jsonl");
    succeeds(train(w, {"steps=33", "eval.every=6", "checkpoint.keep=9", "checkpoint.every=11"}));
    succeeds(train(w, {"steps=45"}));
    CHECK(parameters_of(w.path(checkpoint_of(45))) ==
          parameters_of(w.path(checkpoint_of(45, "whole/run/m/seed0/"))));
    const std::string log = w.read(kPart + "metrics.jsonl");
    CHECK(testing::numbers(log, "grad_norm") ==
          testing::numbers(w.read("whole/run/m/seed0/metrics.jsonl"), "grad_norm"));
    CHECK(log.starts_with(first));  // the last evaluation of the first sitting among it
    CHECK(testing::numbers(log, "tok_acc").size() == 2 + 1 + 2 + 1 + 2 + 1);
    CHECK(experiments::read_run_record(w.path(kPart)).result.steps == 45);
    // Asked again, nothing is done again.
    const std::string result = w.read(kPart + "run.h5");
    succeeds(train(w, {"steps=45"}));
    CHECK(w.read(kPart + "run.h5") == result);

    refused(train(w, {"steps=30"}), {"45 updates are finished", "steps: 30"});
    fs::remove(w.path(kPart + "run.h5"));
    refused(train(w, {"steps=30"}), {"45 updates are finished", "steps: 30"});
  }

  TEST_CASE("more steps under a schedule that decays") {
    for (const std::string schedule :
         {"{name: cosine, warmup_steps: 3}", "{name: wsd, warmup_steps: 3, decay_share: 0.25}"}) {
      const Workplace w;
      w.write("run.yaml", kConfig + "schedule: " + schedule + "\n");
      succeeds(train(w, {}, false));
      const bool cosine = schedule.find("cosine") != std::string::npos;
      refused(train(w, {"steps=40"}),
              {cosine ? "update 5 of 20 finished ones had the learning rate"
                      : "update 17 of 20 finished ones had the learning rate",
               "this config gives it", "steps: 20 -> 40", "horizon"});
      const std::string before = w.read(kPart + "metrics.jsonl");

      succeeds(train(w, {"horizon=40", "output=whole", "steps=40"}, false));
      succeeds(train(w, {"horizon=40", "output=grown", "steps=10"}, false));
      succeeds(train(w, {"horizon=40", "output=grown", "steps=25"}));
      succeeds(train(w, {"output=grown", "steps=40"}));  // the horizon is where it was
      CHECK(parameters_of(w.path(checkpoint_of(40, "grown/run/m/seed0/"))) ==
            parameters_of(w.path(checkpoint_of(40, "whole/run/m/seed0/"))));
      CHECK(w.read(kPart + "metrics.jsonl") == before);
    }
    const Workplace w;
    w.write("run.yaml", kConfig);
    succeeds(train(w, {}, false));
    // Another schedule with the same rates so far.
    succeeds(train(w, {"steps=40", "schedule={name: wsd, decay_steps: 15}"}));
    refused(train(w, {"steps=60", "lr=0.002"}),
            {"update 1 of 40", "rate 0.001", "gives it 0.002", "lr: 0.001 -> 0.002"});
    refused(train(w, {"horizon=10"}), {"horizon: must be at least steps"});
  }

  TEST_CASE("more seeds and models: what is finished stays as it is") {
    const Workplace w;
    w.write("run.yaml", kConfig);
    succeeds(train(w, {"seeds=[1]"}, false));
    const std::string result = w.read("runs/run/m/seed1/run.h5");
    w.write("more.yaml",
            "extend: run.yaml\nmodels:\n"
            "  - {layers: [lstm], width: 8, name: new}\n"
            "  - {layers: [deltanet], width: 16, channel: none, name: m}\n"
            "seeds: [0, 1]\neval: {every: 3, batch: 5}\ncheckpoint: {every: 2, keep: 1}\n");
    const Outcome out = w.run({"train", "more.yaml", "--resume"});
    succeeds(out);
    CHECK(w.read("runs/run/m/seed1/run.h5") == result);
    CHECK(fs::exists(w.path("runs/run/new/seed1/run.h5")));
    const std::string table = w.read("runs/run/table.txt");
    INFO(table);
    CHECK(table.find("partial") == std::string::npos);
    CHECK(table.find("new ") < table.find("m  "));
    // A model of the same numbers alone has the same hash.
    w.write("alone.yaml", kConfig);
    CHECK(w.run({"config", "alone.yaml"}).text.find("hash ") != std::string::npos);
    const std::string hash =
        experiments::load_checkpoint(w.path(checkpoint_of(20, "runs/run/m/seed0/"))).data.part_hash;
    CHECK(w.run({"config", "alone.yaml"}).text.find("hash " + hash + " of m") != std::string::npos);
    CHECK(experiments::read_run_record(w.path("runs/run/m/seed1")).result.part_hash == hash);
  }

  TEST_CASE("a refusal names the fields that differ, old and new") {
    const Workplace w;
    w.write("run.yaml", kConfig);
    succeeds(train(w, {}, false));
    for (const bool finished : {true, false}) {
      if (!finished) {
        fs::remove(w.path(kPart + "run.h5"));
      }
      refused(train(w, {"models.0.width=32", "batch=8"}),
              {"models.0.width: 16 -> 32", "batch: 4 -> 8", "another name"});
      refused(train(w, {"models.0.layers=[lstm, deltanet]"}),
              {"models.0.layers.0: deltanet -> lstm", "models.0.layers.1: nothing -> deltanet"});
      refused(train(w, {"task.test_lengths=[12, 24]"}), {"task.test_lengths: [12] -> [12, 24]"});
      refused(train(w, {"optimizer=sgd"}), {"optimizer: adamw -> sgd"});
      refused(train(w, {"models.0.init_std=0.5"}), {"models.0.init_std: 0.02 -> 0.5"});
    }
    // What changes no number.
    succeeds(train(w, {"log_every=3", "prefetch=2", "output=./runs"}));
  }

  TEST_CASE("an interrupted run of several seeds has its table, marked as partial") {
    const Workplace w;
    w.write("run.yaml", kConfig + "seeds: [0, 1, 2]\n");
    const Outcome out = w.run({"train", "run.yaml", "--set", "steps=3000", "--set", "eval.every=0",
                               "--set", "checkpoint.every=0"},
                              {.signal = SIGTERM, .signal_when = "runs/run/m/seed1/metrics.jsonl"});
    INFO(out.text);
    CHECK(out.status == 128 + SIGTERM);
    const std::string table = w.read("runs/run/table.txt");
    CHECK(out.text.find(table) != std::string::npos);
    CHECK(table.starts_with("partial: 1 of 3 results; m seed 1: stopped after update "));
    CHECK(table.find(" of 3000; m seed 2: not started\n") != std::string::npos);
    CHECK(table.find("tok_acc") != std::string::npos);
    CHECK(fs::exists(w.path("runs/run/m/seed0/run.h5")));
    // Killed at once, the table of what was finished is there too.
    const Outcome killed =
        w.run({"train", "run.yaml", "--set", "output=killed", "--set", "steps=3000", "--set",
               "eval.every=0", "--set", "checkpoint.every=0"},
              {.signal = SIGKILL, .signal_when = "killed/run/m/seed1/config.yaml"});
    REQUIRE(killed.status == 128 + SIGKILL);
    CHECK(w.read("killed/run/table.txt").starts_with("partial: "));
    // Neither does an error lose it.
    fs::create_directories(w.path("full/run/m/seed2"));
    fs::create_symlink("/dev/full", w.path("full/run/m/seed2/run.h5.tmp"));
    const Outcome full = w.run({"train", "run.yaml", "--set", "output=full"});
    INFO(full.text);
    CHECK(full.status == 1);
    CHECK(full.text.find("the disk is full") != std::string::npos);
    CHECK(w.read("full/run/table.txt").starts_with("partial: 2 of 3 results; m seed 2: full/run"));
    succeeds(w.run({"train", "run.yaml", "--set", "steps=3000", "--set", "eval.every=0", "--set",
                    "checkpoint.every=0", "--resume"}));
    CHECK(w.read("runs/run/table.txt").find("partial") == std::string::npos);
  }

  TEST_CASE("a model whose numbers are not finite does not take the others with it") {
    const Workplace w;
    w.write("run.yaml",
            "extend: base.yaml\nclip: 0\noptimizer: sgd\nmodels:\n"
            "  - {layers: [deltanet], width: 16, channel: none, name: bad, lr: 1e30}\n"
            "  - {layers: [deltanet], width: 16, channel: none, name: good}\n"
            "seeds: [0, 1]\n");
    w.write("base.yaml", kConfig);
    const Outcome out = train(w, {}, false);
    INFO(out.text);
    CHECK(out.status == 1);
    for (const char* text :
         {"partial: 2 of 4 results; bad seed 0: the ", "; bad seed 1: the ", "not finite", "good ",
          "longscan: the ", "while training bad seed 0", "while training bad seed 1"}) {
      INFO(text);
      CHECK(out.text.find(text) != std::string::npos);
    }
    CHECK(fs::exists(w.path("runs/run/good/seed1/run.h5")));
    CHECK(w.read("runs/run/table.txt").starts_with("partial: 2 of 4 results"));
  }

  TEST_CASE("a corpus is known by what lies in it") {
    const Workplace w;
    std::string text;
    for (int i = 0; i < 20000; ++i) {
      text += "abcde fghij "[i * i % 12];
    }
    w.write("text/a.txt", text);
    w.write("text/b.txt", text.substr(100));
    w.write("run.yaml",
            "name: run\ntask: {name: bytes, path: text, length: 16, test_windows: 4}\n"
            "models: [{layers: [gated_deltanet], width: 16, channel: none, name: m}]\n"
            "steps: 6\nbatch: 2\nseeds: [0, 1]\n");
    succeeds(train(w, {}, false));
    CHECK(experiments::read_run_record(w.path(kPart)).result.data.at(0).field == "task.path");
    const auto data = experiments::load_checkpoint(w.path(checkpoint_of(6))).data.data;
    REQUIRE(data.size() == 1);
    CHECK(data[0].files == 2);
    CHECK(data[0].bytes == 2 * 20000 - 100);
    CHECK(w.run({"info", checkpoint_of(6)}).text.find(data[0].content) != std::string::npos);

    const auto changed = [&](const std::string& what, const std::vector<std::string>& more) {
      INFO(what);
      for (const bool finished : {true, false}) {
        const std::string kept = w.read(kPart + "run.h5");
        if (!finished) {
          fs::remove(w.path(kPart + "run.h5"));
        }
        std::vector<std::string> wanted = {
            "was trained on other data", "then  task.path: ", "now   task.path: ", data[0].content,
            "--allow-changed-data"};
        wanted.insert(wanted.end(), more.begin(), more.end());
        refused(train(w, {"steps=12"}), wanted);
        w.write(kPart + "run.h5", kept);
      }
      // Evaluation goes on, and says so.
      const Outcome out = w.run({"eval", checkpoint_of(6)});
      CHECK(out.status == 0);
      CHECK(out.text.find("the data have changed") != std::string::npos);
      // With another setting of the task too, not where other files are asked for.
      const auto warned = [&](const std::string& set) {
        const Outcome other = w.run({"eval", checkpoint_of(6), "--set", set});
        CHECK(other.status == 0);
        return other.text.find("the data have changed") != std::string::npos;
      };
      CHECK(warned("task.test_windows=3"));
      CHECK_FALSE(warned("task.path=text"));
    };
    w.write("text/b.txt", "X" + text.substr(101));
    changed("an edit of the same size", {"2 files, 39900 bytes, names " + data[0].names});
    w.write("text/b.txt", text.substr(100, 15000));
    changed("a truncation", {"2 files, 35000 bytes"});
    w.write("text/b.txt", text.substr(100));
    fs::rename(w.path("text/a.txt"), w.path("text/c.txt"));
    changed("a file renamed", {"2 files, 39900 bytes"});
    fs::rename(w.path("text/c.txt"), w.path("text/a.txt"));
    w.write("text/d.txt", "more");
    changed("a file more", {"3 files, 39904 bytes"});
    fs::remove(w.path("text/d.txt"));

    // Moved as a whole it is the same corpus.
    fs::create_directories(w.path("elsewhere"));
    fs::rename(w.path("text"), w.path("elsewhere/corpus"));
    CHECK(train(w, {"steps=12"}).status == 1);
    succeeds(train(w, {"steps=12", "task.path=elsewhere/corpus"}));
    // Changed, and wanted so.
    w.write("elsewhere/corpus/b.txt", "X" + text.substr(101));
    const Outcome out = w.run({"train", "run.yaml", "--resume", "--allow-changed-data", "--set",
                               "steps=18", "--set", "task.path=elsewhere/corpus"});
    succeeds(out);
    CHECK(experiments::load_checkpoint(w.path(checkpoint_of(18))).data.data[0].content !=
          data[0].content);
    succeeds(train(w, {"steps=24", "task.path=elsewhere/corpus"}));  // the new data are on record
  }

  TEST_CASE("generate and eval need a checkpoint, no corpus and no place") {
    const Workplace w;
    std::string text;
    for (int i = 0; i < 3000; ++i) {
      text += "the cat sat on the mat. ";
    }
    w.write("here/text.txt", text);
    w.write("here/held/out.txt", text.substr(1, 2000));
    w.write("here/run.yaml",
            "name: run\ntask: {name: bytes, path: text.txt, valid_path: held, length: 16, "
            "test_windows: 4}\nmodels: [{layers: [gated_deltanet], width: 16, channel: none, name: "
            "m}]\nsteps: 6\nbatch: 2\n");
    succeeds(w.shell("cd here && $longscan train run.yaml"));
    const std::string checkpoint = "here/" + checkpoint_of(6);
    const std::string said =
        w.run({"generate", checkpoint, "--prompt", "the cat", "--tokens", "20", "-q"}).text;
    const std::string scored = w.run({"eval", checkpoint}).text;
    CHECK(scored.find("bpb") != std::string::npos);

    fs::remove(w.path("here/text.txt"));  // the training text is not needed to evaluate
    CHECK(w.run({"eval", checkpoint}).text == scored);
    const Outcome away = w.shell("mkdir -p a/b && cd a/b && $longscan eval ../../" + checkpoint);
    INFO(away.text);
    CHECK(away.text == scored);
    fs::rename(w.path("here/held"), w.path("held"));
    const Outcome gone = w.run({"eval", checkpoint});
    CHECK(gone.status == 1);
    CHECK(gone.text.find("here/held") != std::string::npos);
    CHECK(gone.text.find("--set task.FIELD=VALUE") != std::string::npos);
    CHECK(w.run({"eval", checkpoint, "--set", "task.valid_path=held"}).text == scored);
    fs::remove_all(w.path("held"));
    CHECK(w.run({"generate", checkpoint, "--prompt", "the cat", "--tokens", "20", "-q"}).text ==
          said);
  }

  TEST_CASE("a damaged newest checkpoint: the run goes on from the one before, and says so") {
    const Workplace w;
    w.write("run.yaml", kConfig);
    succeeds(train(w, {"output=whole"}, false));
    succeeds(train(w, {"checkpoint.keep=3"}, false));
    const auto damage = [&](Index step, int how) {
      const std::string path = checkpoint_of(step);
      std::string bytes = w.read(path);
      if (how == 0) {
        bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 1);
      } else {
        bytes.resize(how == 1 ? bytes.size() / 2 : 0);
      }
      w.write(path, bytes);
    };
    for (const int how : {0, 1, 2}) {
      fs::remove(w.path(kPart + "run.h5"));
      damage(20, how);
      const Outcome strict = w.run({"train", "run.yaml", "--resume=strict"});
      refused(strict, {"step_000000020.h5", "is damaged", "goes on from", "step_000000015.h5"});
      const Outcome out = train(w, {"checkpoint.keep=3"});
      succeeds(out);
      CHECK(out.text.find("DAMAGED") != std::string::npos);
      CHECK(out.text.find("step_000000015.h5") != std::string::npos);
      CHECK(fs::exists(w.path(checkpoint_of(20) + ".damaged")));
      CHECK(parameters_of(w.path(checkpoint_of(20))) ==
            parameters_of(w.path(checkpoint_of(20, "whole/run/m/seed0/"))));
      CHECK(told(w.read(kPart + "metrics.jsonl")) ==
            told(w.read("whole/run/m/seed0/metrics.jsonl")));
    }
    fs::remove(w.path(kPart + "run.h5"));
    damage(20, 0);
    damage(15, 1);
    succeeds(train(w, {"checkpoint.keep=3"}));  // two back
    fs::remove(w.path(kPart + "run.h5"));
    for (const std::string& path : experiments::list_checkpoints(w.path(kPart + "checkpoints"))) {
      fs::resize_file(path, 100);
    }
    refused(train(w, {}), {"every checkpoint is damaged", "step_000000020.h5"});
    CHECK(experiments::list_checkpoints(w.path(kPart + "checkpoints")).size() == 3);
    const Outcome maybe = w.run({"train", "run.yaml", "--resume=maybe"});
    CHECK(maybe.status == 2);
    CHECK(maybe.text.find("--resume: stands alone or with '=strict', got 'maybe'") !=
          std::string::npos);
  }

  TEST_CASE("metrics.jsonl is a log: what it says of evaluations is in the checkpoint") {
    const Workplace w;
    w.write("run.yaml", kConfig);
    succeeds(train(w, {}, false));
    const std::string log = w.read(kPart + "metrics.jsonl");
    const auto evaluations = [](const std::string& text) {
      std::string lines;
      std::istringstream in(text);
      for (std::string line; std::getline(in, line);) {
        lines += line.find("\"eval\"") != std::string::npos ? line + "\n" : "";
      }
      return lines;
    };
    const std::string before = evaluations(log);
    fs::remove(w.path(kPart + "metrics.jsonl"));
    succeeds(train(w, {"steps=21"}));
    const std::string after = evaluations(w.read(kPart + "metrics.jsonl"));
    INFO(before << after);
    // Those of the finished part to the letter; the last but for the time, which a resumed run
    // counts to its checkpoint.
    CHECK(after.starts_with(before.substr(0, before.find("\"step\":20"))));
    CHECK(testing::numbers(after, "step") == std::vector<double>{7, 14, 20, 21, 21});
  }

  TEST_CASE("a model that starts from another run's weights") {
    const Workplace w;
    w.write("run.yaml", kConfig);
    succeeds(train(w, {"name=old"}, false));
    const std::string old = checkpoint_of(20, "runs/old/m/seed0/");
    const auto from = [](const std::string& path) { return "models.0.init.from=" + path; };
    succeeds(train(w, {from(old), "lr=1e-30", "steps=3", "optimizer=sgd", "name=same"}, false));
    CHECK(parameters_of(w.path(checkpoint_of(3, "runs/same/m/seed0/"))) ==
          parameters_of(w.path(old)));
    refused(train(w, {from(old), "models.0.width=32"}, false),
            {"models.0", old, " is [", "] in the file, ", "in the model"});
    refused(train(w, {from("none.h5")}, false), {"models.0", "none.h5", "No such file"});
    CHECK_FALSE(fs::exists(w.path("runs/run")));

    // Resumed, it needs the file no longer; with other weights in it, it is another run.
    succeeds(train(w, {from(old), "steps=9"}, false));
    refused(train(w, {"steps=12"}), {"was trained on other data", "init.from"});
    fs::rename(w.path(old), w.path("moved.h5"));
    succeeds(train(w, {from(old), "steps=12"}));
    succeeds(train(w, {from("moved.h5"), "steps=15"}));
    fs::copy_file(w.path(checkpoint_of(15)), w.path(old));
    refused(train(w, {from(old), "steps=18"}), {"was trained on other data", "init.from"});
  }

  TEST_CASE("--fresh deletes what the manifest lists, and nothing else") {
    const Workplace w;
    w.write("run.yaml", kConfig);
    succeeds(train(w, {}, false));
    w.write(kPart + "notes.txt", "mine");
    w.write(kPart + "checkpoints/mine.h5", "mine");
    w.write("runs/run/m/seed7/run.h5", "another's");
    succeeds(w.run({"train", "run.yaml", "--fresh", "--set", "steps=3"}));
    CHECK(w.read(kPart + "notes.txt") == "mine");
    CHECK(w.read(kPart + "checkpoints/mine.h5") == "mine");
    CHECK(w.read("runs/run/m/seed7/run.h5") == "another's");
    CHECK_FALSE(fs::exists(w.path(checkpoint_of(20))));
    const Outcome out =
        w.run({"train", "run.yaml", "--fresh", "--set", "seeds=[0, 7]", "--set", "steps=3"});
    INFO(out.text);
    CHECK(out.status == 1);
    CHECK(
        out.text.find("m/seed7: holds files of a run that runs/run/manifest.json does not list") !=
        std::string::npos);
    CHECK(w.read("runs/run/m/seed7/run.h5") == "another's");
    w.write("runs/run/manifest.json", "[]");
    CHECK(w.run({"train", "run.yaml", "--fresh"}).text.find("does not list the parts of a run") !=
          std::string::npos);
  }
}
