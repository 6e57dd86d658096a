// Sweeps: kills, stopped workers, failures, growth, and what is wrong with a file.
#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <map>
#include <sstream>

#include "experiments/run_file.h"
#include "tests/e2e/program.h"
#include "tests/support/skip.h"

using namespace ls;
using testing::Outcome;
using testing::Workplace;

namespace {

namespace fs = std::filesystem;

/// Two models, one of them at two sizes, under two rates, with four seeds: 15 runs.
const std::string kSweep =
    "name: s\n"
    "base:\n"
    "  name: base\n"
    "  task: {name: parity, length: 12, test_lengths: [12, 24], test_examples: 8}\n"
    "  models:\n"
    "    - {layers: [{name: deltanet, heads: 1}], width: 8, channel: none, name: delta}\n"
    "    - {layers: [attention], width: 8, channel: none, name: att}\n"
    "  steps: 40\n"
    "  batch: 4\n"
    "  eval: {every: 20}\n"
    "axes:\n"
    "  models.0.width: [8, 16]\n"
    "rates: [1e-3, 1e-2]\n"
    "seeds: [0, 1, 2, 3]\n";

using Table = std::vector<std::map<std::string, std::string>>;

/// One line of CSV; nothing here spans lines.
std::vector<std::string> cells(const std::string& line) {
  std::vector<std::string> out(1);
  bool quoted = false;
  for (const char c : line) {
    if (c == '"') {
      quoted = !quoted;
    } else if (c == ',' && !quoted) {
      out.emplace_back();
    } else {
      out.back() += c;
    }
  }
  return out;
}

/// Without what the machine decides.
Table results(const Workplace& w, const std::string& folder = "runs/s") {
  std::istringstream in(w.read(folder + "/results.csv"));
  std::string line;
  std::getline(in, line);
  const std::vector<std::string> header = cells(line);
  Table table;
  while (std::getline(in, line)) {
    const std::vector<std::string> values = cells(line);
    REQUIRE(values.size() == header.size());
    for (std::size_t i = 0; i < header.size(); ++i) {
      if (i == 0) {
        table.emplace_back();
      }
      if (header[i] != "seconds" && header[i] != "memory" && header[i] != "host") {
        table.back()[header[i]] = values[i];
      }
    }
  }
  return table;
}

/// When each run's folder was finished: one that is run again is another file.
std::map<std::string, std::string> finished(const Workplace& w,
                                            const std::string& folder = "runs/s") {
  std::map<std::string, std::string> out;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(w.path(folder), error)) {
    const fs::path result = entry.path() / "run.h5";
    if (fs::exists(result, error)) {
      out[entry.path().filename().string()] =
          std::to_string(fs::last_write_time(result).time_since_epoch().count());
    }
  }
  return out;
}

std::size_t runs_in(const Table& table) {
  std::map<std::string, int> names;
  for (const auto& row : table) {
    ++names[row.at("run")];
  }
  return names.size();
}

/// What was finished before is as it was.
void check_kept(const std::map<std::string, std::string>& before,
                const std::map<std::string, std::string>& now) {
  for (const auto& [name, time] : before) {
    CAPTURE(name);
    REQUIRE(now.contains(name));
    CHECK(now.at(name) == time);
  }
}

/// Kills it again and again; what it leaves in the end equals `whole`.
void check_kills(const Workplace& w, int workers, double took, const Table& whole) {
  const std::string output = "killed" + std::to_string(workers), folder = output + "/s";
  const std::vector<std::string> command = {
      "sweep", "s.yaml", "--workers", std::to_string(workers), "--set", "output=" + output};
  std::uint64_t random = 99 + static_cast<std::uint64_t>(workers);
  int kills = 0;
  for (int i = 0; i < 10; ++i) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    // Half of the sweep's time in the mean of all, so that most meet it at work.
    const double after = 0.1 * took * static_cast<double>(random >> 40) / (1 << 24);
    const auto before = finished(w, folder);
    const Outcome out = w.run(command, {.signal = SIGKILL, .signal_after_s = 0.05 + after});
    kills += out.status == 128 + SIGKILL;
    check_kept(before, finished(w, folder));
  }
  CHECK(kills >= 5);
  const auto before = finished(w, folder);
  const Outcome out = w.run(command);
  INFO(out.text);
  REQUIRE(out.status == 0);
  check_kept(before, finished(w, folder));
  CHECK(results(w, folder) == whole);
  for (const char* hidden : {"/.leases", "/.work"}) {
    for (const auto& entry : fs::directory_iterator(w.path(folder + hidden))) {
      FAIL_CHECK("left over: " << entry.path());
    }
  }
}

}  // namespace

TEST_SUITE("e2e") {
  TEST_CASE(
      "a sweep killed ten times, with one worker and with three, ends as an undisturbed one") {
    const Workplace w;
    w.write("s.yaml", kSweep + "");
    const auto begin = std::chrono::steady_clock::now();
    const Outcome out =
        w.run({"sweep", "s.yaml", "--workers", "2", "--set", "seeds=[0,1,2,3,4,5,6]"});
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    INFO(out.text);
    REQUIRE(out.status == 0);
    CHECK(runs_in(results(w)) == 24);  // 3 cells of 2 choices and 6 reports
    w.write("s.yaml", kSweep + "choice_seeds: [0]\n");
    std::string text = w.read("s.yaml");
    text.replace(text.find("[0, 1, 2, 3]"), 12, "[0, 1, 2, 3, 4, 5, 6]");
    w.write("s.yaml", text);
    for (const int workers : {1, 3}) {
      check_kills(w, workers, took.count(), results(w));
    }
  }

  TEST_CASE("a sweep's worker that is stopped, replaced and woken changes nothing") {
    const Workplace w;
    w.write("s.yaml", kSweep);
    REQUIRE(
        w.run({"sweep", "s.yaml", "--set", "base.steps=2000", "--set", "output=whole"}).status ==
        0);
    const Outcome out = w.shell(
        "LONGSCAN_SWEEP_WORKER=0 $longscan sweep s.yaml --lease 1 --threads 1 --set "
        "base.steps=2000 "
        "2>first.txt &\n"
        "first=$!\n"
        "while ! grep -q step runs/s/.work/*/metrics.jsonl 2>/dev/null; do sleep 0.01; done\n"
        "kill -STOP $first\n"
        "ls runs/s/.leases\n"
        "$longscan sweep s.yaml --lease 1 --workers 1 --set base.steps=2000 || exit 1\n"
        "kill -CONT $first\n"
        "wait $first\n"
        "echo status $?\n");
    INFO(out.text);
    CHECK(out.text.find("seed=0.1\n") != std::string::npos);  // the first run's lease
    CHECK(out.text.find("status 0\n") != std::string::npos);
    CHECK(w.read("first.txt").find("another worker has taken this run over") != std::string::npos);
    CHECK(results(w) == results(w, "whole/s"));
    CHECK(fs::is_empty(w.path("runs/s/.work")));
  }

  TEST_CASE("ranks are workers of a sweep, and a trial says what it takes") {
    const Workplace w;
    w.write("s.yaml", kSweep);
    const Outcome trial = w.run({"sweep", "s.yaml", "--dry-run", "--workers", "2"});
    INFO(trial.text);
    CHECK(trial.status == 0);
    for (const char* part : {"runs    15 in 3 cells, 6 of them to choose rates\n",
                             "tokens  28.8k\n", "with 2 workers", "files   48\n"}) {
      CAPTURE(part);
      CHECK(trial.text.find(part) != std::string::npos);
    }
    CHECK_FALSE(fs::exists(w.path("runs")));
    if (!testing::have_ranks()) {
      test::skipped("built without MPI");
      return;
    }
    REQUIRE(w.run({"sweep", "s.yaml", "--set", "output=whole"}).status == 0);
    const Outcome out = w.run({"sweep", "s.yaml"}, {.ranks = 3});
    INFO(out.text);
    CHECK(out.status == 0);
    CHECK(results(w) == results(w, "whole/s"));
  }

  TEST_CASE("runs of a sweep by another build are marked, and repeated where that is asked for") {
    const Workplace w;
    w.write("s.yaml", kSweep + "keep: last\n");
    Outcome out = w.run({"sweep", "s.yaml", "--workers", "1"});
    REQUIRE(out.status == 0);
    CHECK(out.text.find("MIXED") == std::string::npos);
    const std::string one = "att,lr=1e-3,seed=0", folder = "runs/s/" + one;
    CHECK(fs::exists(w.path(folder + "/checkpoints/step_000000040.h5")));
    const auto before = finished(w);
    const auto made_by = [&](const std::string& commit, const std::string& device,
                             const std::string& flags = "") {
      experiments::RunRecord record = experiments::read_run_record(w.path(folder));
      for (auto& [name, value] : record.result.provenance) {
        value = name == "commit" ? commit : name == "device" ? device : value;
        value = name == "flags" && !flags.empty() ? flags : value;
      }
      experiments::write_run_record(w.path(folder), record.result, record.log);
    };
    made_by("0123456789ab", "cuda:0");
    out = w.run({"sweep", "s.yaml"});
    INFO(out.text);
    CHECK(out.status == 1);
    CHECK(out.text.find(one + " was run on cuda:0, this would go on on cpu") != std::string::npos);
    CHECK(w.run({"sweep", "s.yaml", "--mixed-devices"}).status == 0);
    const auto flags = [&] {
      const auto& facts = experiments::read_run_record(w.path(folder)).result.provenance;
      return std::ranges::find(facts, "flags", &experiments::Provenance::value_type::first)->second;
    }();
    made_by("0123456789ab", "cpu", "-O0");
    out = w.run({"sweep", "s.yaml"});
    INFO(out.text);
    CHECK(out.status == 1);
    CHECK(out.text.find(one + " was made by a build with flags '-O0'") != std::string::npos);
    CHECK(w.run({"sweep", "s.yaml", "--mixed-builds"}).status == 0);
    made_by("0123456789ab", "cpu", flags);
    out = w.run({"sweep", "s.yaml"});
    INFO(out.text);
    CHECK(out.text.find("MIXED COMMITS: 0123456789ab, ") != std::string::npos);
    out = w.run({"sweep", "s.yaml", "--redo", "changed"});
    INFO(out.text);
    CHECK(out.text.find("MIXED") == std::string::npos);
    auto now = finished(w);
    CHECK(now.at(one) != before.at(one));
    now.erase(one);
    check_kept(now, before);
    CHECK(w.run({"sweep", "s.yaml", "--redo", "failed"}).status == 0);
    check_kept(now, finished(w));
    CHECK(w.run({"sweep", "s.yaml", "--redo", "all"}).status == 0);
    CHECK(finished(w).at("att,lr=1e-2,seed=0") != now.at("att,lr=1e-2,seed=0"));
  }

  TEST_CASE("two runs are compared: fields, results, curves") {
    const Workplace w;
    w.write("s.yaml", kSweep);
    REQUIRE(w.run({"sweep", "s.yaml"}).status == 0);
    const std::string a = "runs/s/att,lr=1e-3,seed=0", b = "runs/s/delta,width=16,lr=1e-2,seed=0";
    const Outcome out = w.run({"compare", a, b, "--figure", "both.svg"});
    INFO(out.text);
    CHECK(out.status == 0);
    for (const char* part :
         {"models.0.layers.0", "attention", "deltanet", "models.0.width", "lr", "0.001", "0.01",
          "valid  T12", "tok_acc", "train loss A", "parameters"}) {
      CAPTURE(part);
      CHECK(out.text.find(part) != std::string::npos);
    }
    CHECK(w.run({"compare", a, a}).text.find("no field of the configs differs") !=
          std::string::npos);
    const Outcome wrong = w.run({"compare", a, "runs/s"});
    INFO(wrong.text);
    CHECK(wrong.status == 1);
    CHECK(wrong.text.find("runs/s: is not the folder of a run that has saved anything") !=
          std::string::npos);
    CHECK(wrong.text.find("below it are runs/s/att,lr=1e-2,seed=0") != std::string::npos);
  }

  TEST_CASE("a run of a sweep that fails is recorded, and the others go on") {
    const Workplace w;
    w.write("s.yaml", kSweep);
    const std::vector<std::string> command = {"sweep", "s.yaml", "--set", "rates=[1e-3, 1e30]"};
    Outcome out = w.run(command);
    INFO(out.text);
    CHECK(out.status == 0);
    CHECK(out.text.find("3 runs failed") != std::string::npos);
    int failed = 0;
    for (const auto& row : results(w)) {
      failed += row.at("status") == "failed";
      CHECK((row.at("status") == "failed") == (row.at("rate") == "1e+30"));
      CHECK((row.at("error").find("not finite") != std::string::npos) ==
            (row.at("status") == "failed"));
      CHECK((row.at("chosen") == "yes") == (row.at("rate") == "0.001"));
    }
    CHECK(failed == 3);
    const auto before = finished(w);
    CHECK(w.run(command).status == 0);
    CHECK(finished(w) == before);
    // All rates of a cell fail: it has none.
    out = w.run({"sweep", "s.yaml", "--set", "rates=[1e29, 1e30]", "--set", "output=none"});
    CHECK(out.status == 1);
    CHECK(out.text.find("none") != std::string::npos);
  }

  TEST_CASE("a sweep that grows runs what is new, and keeps the names of folders") {
    const Workplace w;
    w.write("s.yaml", kSweep);
    REQUIRE(w.run({"sweep", "s.yaml"}).status == 0);
    const auto first = finished(w);
    CHECK(first.size() == 15);
    CHECK(first.contains("delta,width=8,lr=1e-3,seed=0"));
    // Nothing is new: other names, an option at its default, another order.
    w.write("s.yaml", kSweep + "  # a comment\n");
    REQUIRE(w.run({"sweep", "s.yaml", "--set", "base.clip=1", "--set", "base.log_every=5", "--set",
                   "rates=[1e-2, 1e-3]"})
                .status == 0);
    CHECK(finished(w) == first);
    // A seed is.
    REQUIRE(w.run({"sweep", "s.yaml", "--set", "seeds=[0, 1, 2, 3, 4]"}).status == 0);
    auto now = finished(w);
    check_kept(first, now);
    CHECK(now.size() == first.size() + 3);
    // An axis that has the old value among its values.
    std::string text = kSweep;
    text.replace(text.find("rates:"), 0, "  clip: [1, 0.01]\n");
    w.write("s.yaml", text);
    REQUIRE(w.run({"sweep", "s.yaml"}).status == 0);
    check_kept(now, finished(w));
    CHECK(runs_in(results(w)) == 30);
    CHECK(finished(w).size() == now.size() + 15);
    now = finished(w);
    // Another value where the file says nothing of it: all is run again, beside what there is.
    w.write("s.yaml", kSweep);
    REQUIRE(w.run({"sweep", "s.yaml", "--set", "base.batch=5"}).status == 0);
    check_kept(now, finished(w));
    CHECK(finished(w).size() == now.size() + 15);
    CHECK(finished(w).contains("delta,width=8,lr=1e-3,seed=0~2"));
  }

  TEST_CASE("a sweep's signal saves, and half-done runs start over or go on") {
    const Workplace w;
    w.write("s.yaml", kSweep);
    const std::vector<std::string> sets = {"--set", "base.steps=1500", "--set",
                                           "base.checkpoint.every=10"};
    const auto command = [&](std::vector<std::string> more) {
      std::vector<std::string> words = {"sweep", "s.yaml", "--workers", "2"};
      words.insert(words.end(), sets.begin(), sets.end());
      words.insert(words.end(), more.begin(), more.end());
      return words;
    };
    REQUIRE(w.run(command({"--set", "output=whole"})).status == 0);
    for (const bool resume : {false, true}) {
      const std::string output = resume ? "output=resumed" : "output=again";
      Outcome out = w.run(command({"--set", output}), {.signal = SIGTERM, .signal_after_s = 0.8});
      INFO(out.text);
      CHECK(out.status == 128 + SIGTERM);
      CHECK(out.text.find("partial: ") != std::string::npos);
      out = w.run(command(resume ? std::vector<std::string>{"--set", output, "--resume"}
                                 : std::vector<std::string>{"--set", output}));
      INFO(out.text);
      CHECK(out.status == 0);
      CHECK(results(w, output.substr(7) + "/s") == results(w, "whole/s"));
    }
  }

  TEST_CASE("what is wrong with a sweep is said before anything runs") {
    const Workplace w;
    const auto said = [&](const std::string& from, const std::string& to,
                          const std::vector<std::string>& set = {}) {
      std::string text = kSweep;
      REQUIRE(text.find(from) != std::string::npos);
      text.replace(text.find(from), from.size(), to);
      w.write("s.yaml", text);
      std::vector<std::string> words = {"sweep", "s.yaml"};
      for (const std::string& s : set) {
        words.insert(words.end(), {"--set", s});
      }
      const Outcome out = w.run(words);
      CHECK(out.status == 1);
      CHECK_FALSE(fs::exists(w.path("runs")));
      return out.text;
    };
    const auto has = [](const std::string& text, const char* part) {
      INFO(text);
      CHECK(text.find(part) != std::string::npos);
    };
    has(said("models.0.width", "models.0.widht"),
        "s.yaml:12:20: models.0.widht: unknown key, did you mean 'width'?");
    has(said("models.0.width", "models.2.width"), "this list (s.yaml:6:5) has 2 elements");
    has(said("[8, 16]", "[8, 0]"), "s.yaml:12:23: models.0.width: an integer >= 1");
    has(said("[8, 16]", "[]"), "the list is empty");
    has(said("seeds: [0, 1, 2, 3]", "seeds: [0]"), "no seed is left to report");
    has(said("name: s", "nam: s"), "did you mean 'name'?");
    has(said("base:", "bas:"), "the config that is varied is expected");
    has(said("models.0.width", "lr"), "lr is varied twice");
    has(said("name: att", "name: att, lr: 0.1"), "model 'att' has an lr of its own");
    has(said("[8, 16]", "{log_space: [1, 1000000], count: 150}",
             {"rates={log_space: [1, 9e6], count: 150}"}),
        "at most 20000 make a sweep");
    has(said("heads: 1", "heads: 3"), "building delta,width=8");
  }
}
