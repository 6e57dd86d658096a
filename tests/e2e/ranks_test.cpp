// Several ranks: the losses of one, on any number of them; one voice; one error.
#include <doctest/doctest.h>

#include <csignal>
#include <filesystem>

#include "experiments/checkpoint.h"
#include "tests/e2e/program.h"
#include "tests/support/skip.h"

using namespace ls;
using testing::numbers;
using testing::Outcome;
using testing::Workplace;

namespace {

namespace fs = std::filesystem;

// Five rows divide by neither 2 nor 3; the documents of the text differ in their number of labels.
const std::string kRun =
    "name: run\n"
    "task: {name: bytes, path: text, length: 16, test_windows: 7}\n"
    "models: [{layers: [{name: gated_deltanet, heads: 1, head_dim: 8}, {name: attention, heads: 1, "
    "head_dim: 8, window: 8}], width: 16, name: m}]\n"
    "steps: 12\nbatch: 5\nlog_every: 1\neval: {every: 4, batch: 4}\ncheckpoint: {every: 4, keep: "
    "9}\n";

// Trains on two ranks until the first update is recorded; $job is mpirun.sh, $rank a rank that does
// not write, $parent the mpirun of it.
const std::string kStart = R"sh(
rm -f runs/run/m/seed0/metrics.jsonl
$mpirun -n 2 $longscan train run.yaml --fresh --set steps=100000000 "$@" &
job=$!
until grep -qs loss runs/run/m/seed0/metrics.jsonl; do sleep 0.02; done
for process in /proc/[0-9]*; do
  if [ "$(readlink $process/cwd)" = "$PWD" ] &&
    tr '\0' '\n' <$process/environ | grep -qxE '(OMPI_COMM_WORLD|PMI)_RANK=1'; then
    rank=${process#/proc/}
    parent=$(cut -d ' ' -f 4 $process/stat)
  fi
done 2>/dev/null
)sh";

void write_text(const Workplace& w) {
  for (int i = 0; i < 60; ++i) {
    std::string text;
    for (int j = 0; j < 700 + 40 * i; ++j) {
      text += "abcde fghij "[(j * 7 + i * j % 5) % 12];
    }
    w.write("text/" + std::to_string(i) + ".txt", text);
  }
}

void check_near(const std::vector<double>& a, const std::vector<double>& b, double tolerance) {
  REQUIRE(a.size() == b.size());
  REQUIRE(!a.empty());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(a[i] - b[i]) <= tolerance * std::max(1.0, std::abs(a[i])));
  }
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) {
    ++n;
  }
  return n;
}

}  // namespace

TEST_CASE("this build can start ranks") {
  if (!testing::have_ranks()) {
    test::skipped("this build has no MPI");
  }
}

TEST_SUITE("e2e" * doctest::skip(!testing::have_ranks())) {
  TEST_CASE("any number of ranks gives the losses and evaluations of one") {
    const Workplace w;
    write_text(w);
    w.write("run.yaml", kRun);
    for (const auto& [state, shard] :
         {std::pair("zero", "none"), std::pair("tbptt", "none"), std::pair("zero", "optimizer"),
          std::pair("tbptt", "parameters"), std::pair("passed", "none"),
          std::pair("learned", "parameters")}) {
      const std::string set = std::string("state=") + state;
      const std::string folder = state + std::string(shard);
      const std::string mesh = std::string("mesh.shard=") + shard;
      const auto train = [&](int ranks) {
        const std::string out = "output=" + folder + std::to_string(ranks);
        return w.run({"train", "run.yaml", "--set", out, "--set", set, "--set", mesh},
                     {.ranks = ranks});
      };
      const auto metrics = [&](int ranks) {
        return w.read(folder + std::to_string(ranks) + "/run/m/seed0/metrics.jsonl");
      };
      for (const int ranks : {0, 1, 2, 3}) {
        const Outcome out = train(ranks);
        INFO(folder << " " << ranks << "\n" << out.text);
        REQUIRE(out.status == 0);
        CHECK(count(out.text, "checkpoint  ") == 1);  // one rank speaks
        CHECK(count(out.text, "12/12") == 1);
        for (const char* key : {"loss", "grad_norm", "bpb", "tok_acc"}) {
          CAPTURE(key);
          check_near(numbers(metrics(0), key), numbers(metrics(ranks), key), 2e-5);
        }
        CHECK(count(metrics(ranks), "\"step\":") == count(metrics(0), "\"step\":"));
      }
    }
  }

  TEST_CASE("more ranks than rows") {
    const Workplace w;
    write_text(w);
    w.write("run.yaml", kRun);
    for (const int ranks : {0, 3}) {
      const Outcome out = w.run(
          {"train", "run.yaml", "--set", "batch=2", "--set", "output=r" + std::to_string(ranks)},
          {.ranks = ranks});
      INFO(out.text);
      REQUIRE(out.status == 0);
    }
    check_near(numbers(w.read("r0/run/m/seed0/metrics.jsonl"), "loss"),
               numbers(w.read("r3/run/m/seed0/metrics.jsonl"), "loss"), 2e-5);
    const Outcome carry = w.run(
        {"train", "run.yaml", "--set", "batch=2", "--set", "state=tbptt", "--fresh"}, {.ranks = 3});
    CHECK(carry.status != 0);
    CHECK(count(carry.text, "needs a row of the batch for every rank") == 1);
  }

  TEST_CASE("a run goes on with another number of ranks") {
    const Workplace w;
    write_text(w);
    w.write("run.yaml", kRun);
    for (const std::string state : {"zero", "tbptt", "passed"}) {
      const std::string set = "state=" + state;
      const std::string part = state + "/run/m/seed0/";
      REQUIRE(w.run({"train", "run.yaml", "--set", "output=whole_" + state, "--set", set}).status ==
              0);
      const auto go_on = [&](int ranks, const std::string& shard = "none") {
        Workplace::Options o;
        o.ranks = ranks;
        return w.run({"train", "run.yaml", "--set", "output=" + state, "--set", set, "--resume",
                      "--set", "mesh.shard=" + shard},
                     o);
      };
      // As if killed just after update 4 by three ranks and just after update 8 by two.
      REQUIRE(go_on(3, "parameters").status == 0);
      const auto forget = [&](int step) {
        fs::remove(w.path(part + "run.h5"));
        for (int s = step + 4; s <= 12; s += 4) {
          fs::remove(w.path(fmt::format("{}checkpoints/step_{:09}.h5", part, s)));
        }
      };
      forget(4);
      REQUIRE(go_on(2, "optimizer").status == 0);
      forget(8);
      const Outcome last = go_on(0);
      INFO(last.text);
      REQUIRE(last.status == 0);
      check_near(numbers(w.read("whole_" + part.substr(0) + "metrics.jsonl"), "loss"),
                 numbers(w.read(part + "metrics.jsonl"), "loss"), 2e-5);
    }
  }

  TEST_CASE("tokens of rows over ranks: the losses and evaluations of one, resumed on any mesh") {
    const Workplace w;
    write_text(w);
    w.write("base.yaml", kRun);
    w.write("run.yaml", "extend: base.yaml\neval: {segment: 7}\n");
    const auto mesh = [](int sequence) { return "mesh.sequence=" + std::to_string(sequence); };
    const auto metrics = [&](const std::string& folder) {
      return w.read(folder + "/run/m/seed0/metrics.jsonl");
    };
    const auto same = [&](const std::string& folder, const std::string& as) {
      for (const char* key : {"loss", "grad_norm", "bpb", "tok_acc"}) {
        CAPTURE(key);
        check_near(numbers(metrics(as), key), numbers(metrics(folder), key), 2e-5);
      }
    };
    for (const std::string state : {"zero", "tbptt"}) {
      const auto train = [&](const std::string& folder, int ranks, int sequence,
                             const std::string& shard) {
        const Outcome out =
            w.run({"train", "run.yaml", "--resume", "--set", "state=" + state, "--set",
                   "output=" + folder, "--set", mesh(sequence), "--set", "mesh.shard=" + shard},
                  {.ranks = ranks});
        INFO(folder << "\n" << out.text);
        REQUIRE(out.status == 0);
        CHECK(count(out.text, "12/12") == 1);
      };
      const std::string whole = state + "_whole", moved = state + "_moved";
      train(whole, 0, 1, "none");
      for (const auto& [ranks, sequence] : {std::pair(4, 2), std::pair(3, 3)}) {
        const std::string folder = fmt::format("{}_{}_{}", state, ranks, sequence);
        CAPTURE(folder);
        train(folder, ranks, sequence, "none");
        same(folder, whole);
      }
      // As if killed just after update 4 on 2 x 2 and just after update 8 on 1 x 2.
      const auto forget = [&](int step) {
        const std::string part = moved + "/run/m/seed0/";
        fs::remove(w.path(part + "run.h5"));
        for (int s = step + 4; s <= 12; s += 4) {
          fs::remove(w.path(fmt::format("{}checkpoints/step_{:09}.h5", part, s)));
        }
      };
      train(moved, 4, 2, "parameters");
      forget(4);
      train(moved, 2, 2, "optimizer");
      forget(8);
      train(moved, 0, 1, "none");
      same(moved, whole);
    }
    const std::string checkpoint = "zero_4_2/run/m/seed0/checkpoints/step_000000012.h5";
    const Outcome alone = w.run({"eval", checkpoint, "--json"});
    const Outcome both = w.run({"eval", checkpoint, "--json", "--set", mesh(2)}, {.ranks = 2});
    INFO(alone.text << both.text);
    for (const char* key : {"loss", "bpb", "tok_acc", "labels"}) {
      CAPTURE(key);
      check_near(numbers(alone.text, key), numbers(both.text, key), 2e-6);
    }
    const std::vector<std::string> generate = {
        "generate", checkpoint, "--prompt", "abcde fghij abc", "--temperature",
        "0",        "--tokens", "40",       "--quiet"};
    const Outcome wrote = w.run(generate);
    CHECK(w.run(generate, {.ranks = 3}).text == wrote.text);
    const Outcome refused = w.run({"train", "run.yaml", "--set", mesh(4)}, {.ranks = 2});
    CHECK(refused.status != 0);
    CHECK(count(refused.text, "mesh.sequence is 4, which does not divide 2 ranks") == 1);
  }

  TEST_CASE("several ranks: numbers that are not finite end one model, not the run") {
    const Workplace w;
    write_text(w);
    w.write("run.yaml", kRun + "clip: 0\noptimizer: sgd\n");
    w.write("two.yaml",
            "extend: run.yaml\nmodels:\n"
            "  - {layers: [gated_deltanet], width: 16, channel: none, name: bad, lr: 1e30}\n"
            "  - {layers: [gated_deltanet], width: 16, channel: none, name: good}\n");
    const Outcome out = w.run({"train", "two.yaml"}, {.time_limit_s = 60, .ranks = 3});
    INFO(out.text);
    CHECK(out.status != 0);
    CHECK(out.status != 124);
    CHECK(count(out.text, "longscan: ") == 1);
    CHECK(count(out.text, "partial: 1 of 2 results; bad seed 0: the ") == 1);
    CHECK(fs::exists(w.path("runs/run/good/seed0/run.h5")));
  }

  TEST_CASE("an error of all ranks or of one is one message, soon") {
    const Workplace w;
    write_text(w);
    w.write("run.yaml", kRun);
    const auto refused = [&](const std::vector<std::string>& arguments, const std::string& wanted) {
      const Outcome out = w.run(arguments, {.time_limit_s = 60, .ranks = 3});
      INFO(out.text);
      CHECK(out.status != 0);
      CHECK(out.status != 124);
      CHECK(count(out.text, "longscan: ") == 1);
      CHECK(count(out.text, wanted) == 1);
    };
    refused({"train", "run.yaml", "--set", "stepz=1"}, "unknown key");
    refused({"trian"}, "unknown command 'trian'");
    refused({"train", "none.yaml"}, "cannot open config 'none.yaml'");
    fs::create_directories(w.path("runs/run/m/seed0"));
    fs::create_symlink("/dev/full", w.path("runs/run/m/seed0/run.h5.tmp"));
    refused({"train", "run.yaml"}, "the disk is full");  // rank 0 alone writes
  }

  TEST_CASE("a mesh whose ranks are killed or stopped ends soon, and goes on as if it had not") {
    const Workplace w;
    write_text(w);
    w.write("base.yaml", kRun);
    w.write(
        "run.yaml",
        "extend: base.yaml\nsteps: 2000\neval: {every: 0}\ncheckpoint: {every: 40, keep: 2}\nmesh: "
        "{sequence: 2}\n");
    REQUIRE(w.run({"train", "run.yaml", "--set", "output=whole"}, {.ranks = 4}).status == 0);
    // A rank is killed some time after the ranks were found, at last one is stopped.
    const Outcome out = w.shell(R"sh(
rank() {
  for process in /proc/[0-9]*; do
    if [ "$(readlink $process/cwd)" = "$PWD" ] &&
      tr '\0' '\n' <$process/environ | grep -qxE "(OMPI_COMM_WORLD|PMI)_RANK=$1"; then
      echo ${process#/proc/}
    fi
  done 2>/dev/null
}
for n in 0 1 2 3 0 1; do
  $mpirun -n 4 $longscan train run.yaml --resume >out 2>&1 &
  job=$!
  until [ -n "$found" ]; do found=$(rank $n); done
  sleep 0.$((n * 13 + 20))
  kill -KILL $found
  found=
  wait $job && echo "not killed"
done
export LONGSCAN_COMM_TIMEOUT=3
$mpirun -n 4 $longscan train run.yaml --resume --set steps=1000000 >out 2>&1 &
job=$!
until grep -qs '"step":2000,' runs/run/m/seed0/metrics.jsonl; do sleep 0.01; done
stopped=$(rank 3)
kill -STOP $stopped
sleep 12
kill -KILL $stopped 2>/dev/null
wait $job && echo "did not fail"
cat out
)sh");
    INFO(out.text);
    CHECK(count(out.text, "not killed") == 0);
    CHECK(count(out.text, "did not fail") == 0);
    CHECK(count(out.text, "longscan: on ") == 1);
    CHECK(count(out.text, " of 4 failed: ") == 1);
    CHECK(count(out.text, "the time limit (LONGSCAN_COMM_TIMEOUT)") >= 1);
    CHECK(count(w.read("runs/run/failures.log"), "the time limit") >= 1);
    CHECK(w.read("runs/run/logs/rank_0003.log").find("rank 3 of 4 on ") != std::string::npos);
    const auto losses = [&](const std::string& folder) {
      std::vector<double> all = numbers(w.read(folder + "/run/m/seed0/metrics.jsonl"), "loss");
      REQUIRE(all.size() >= 2000);
      all.resize(2000);  // without those of evaluations
      return all;
    };
    CHECK(losses("runs") == losses("whole"));
  }

  TEST_CASE("several ranks leave before their job ends, with a status to try again") {
    const Workplace w;
    write_text(w);
    w.write("run.yaml", kRun);
    const Outcome out = w.shell(
        "export LONGSCAN_JOB_END=$(($(date +%s) + 12))\n"
        "$mpirun -n 2 $longscan train run.yaml --set steps=100000000 --leave-before 8s\n");
    INFO(out.text);
    CHECK(out.status == 75);
    const Outcome late =
        w.shell("LONGSCAN_JOB_END=$(date +%s) $longscan train run.yaml --fresh --leave-before 8s");
    CHECK(count(late.text, "nothing would be trained") == 1);
    const Outcome lone = w.shell("SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0 $longscan info");
    CHECK(lone.status == 1);
    CHECK(count(lone.text, "one of 2 tasks of a Slurm step, and its MPI counts one rank") == 1);
    CHECK(count(out.text, "go on with --resume") == 1);
    CHECK(!experiments::list_checkpoints(w.path("runs/run/m/seed0/checkpoints")).empty());
  }

  TEST_CASE("several ranks save and stop at a signal, whoever gets it, and go on") {
    const Workplace w;
    write_text(w);
    w.write("run.yaml", kRun);
    const auto saved = [&] {
      return experiments::list_checkpoints(w.path("runs/run/m/seed0/checkpoints"));
    };
    Index before = 0;  // the newest, since old ones are deleted
    for (const int sig : {SIGTERM, SIGINT, SIGUSR1, SIGUSR2}) {
      // When an update more is done: metrics.jsonl is there from the start.
      const std::string next =
          fmt::format("runs/run/m/seed0/checkpoints/step_{:09}.h5", before + 1);
      const Outcome out = w.run({"train", "run.yaml", "--resume", "--set", "steps=100000000",
                                 "--set", "eval.every=0", "--set", "checkpoint.every=1"},
                                {.signal = sig, .signal_when = next, .ranks = 2});
      INFO(out.text);
      CHECK(out.status == 128 + sig);
      CHECK(count(out.text, "go on with --resume") == 1);
      CHECK(count(out.text, "mpirun") == 0);
      REQUIRE(!saved().empty());
      const Index now = std::stoll(fs::path(saved().back()).stem().string().substr(5));
      CHECK(now > before);
      before = now;
    }
    const struct {
      std::string what, kill;
      int status;
    } signals[] = {{"one rank", "kill -TERM $rank", 128 + SIGTERM},
                   {"mpirun, which passes it on", "kill -USR2 $parent", 128 + SIGUSR2},
                   {"mpirun, which ends the ranks soon", "kill -TERM $parent", 1}};
    for (const auto& [what, kill, status] : signals) {
      const Outcome out = w.shell(kStart + kill + "\nwait $job");
      INFO(what << "\n" << out.text);
      CHECK(out.status == status);
      CHECK(count(out.text, "go on with --resume") == 1);
      CHECK(!saved().empty());
    }
    const Outcome plain = w.run({"eval", saved().back()});
    INFO(plain.text);
    CHECK(plain.status == 0);
  }

  TEST_CASE("a second signal ends several ranks at once") {
    const Workplace w;
    write_text(w);
    // An update takes seconds.
    w.write("run.yaml", kRun + "accumulate: 100\n");
    const Outcome out = w.shell("set -- --set batch=10000 --set task.length=512\n" + kStart +
                                "kill -TERM $job; sleep 0.5; kill -TERM $job\nwait $job");
    INFO(out.text);
    CHECK(out.status == 128 + SIGTERM);
    CHECK(count(out.text, "go on with --resume") == 0);
    CHECK(experiments::list_checkpoints(w.path("runs/run/m/seed0/checkpoints")).empty());
  }
}
