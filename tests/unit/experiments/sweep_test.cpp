// Plans of sweeps: names, cells, seeds; what is solved for; which rate is chosen.
#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <set>

#include "core/io/files.h"
#include "experiments/columns.h"
#include "experiments/model_io.h"
#include "experiments/report/panels.h"
#include "experiments/run_file.h"
#include "experiments/sweep/choice.h"
#include "experiments/sweep/match.h"
#include "experiments/sweep/monitor.h"
#include "experiments/sweep/results.h"
#include "tests/support/errors.h"
#include "tests/support/text_folder.h"

using namespace ls;
using namespace ls::experiments;

namespace {

const std::string kBase =
    "name: s\n"
    "base:\n"
    "  name: base\n"
    "  task: {name: parity, length: 8, test_lengths: [8], test_examples: 4}\n"
    "  models:\n"
    "    - {layers: [{name: gated_deltanet, heads: 2, head_dim: 4}], width: 8, name: gated one}\n"
    "    - {layers: [attention], width: 8, name: att}\n"
    "  steps: 4\n"
    "  batch: 2\n";

SweepPlan plan(const std::string& more, const std::vector<std::string>& overrides = {}) {
  return plan_sweep(VariedConfig::from_text(kBase + more, "s.yaml", overrides, sweep_keys()), "");
}

std::vector<std::string> names(const SweepPlan& p) {
  std::vector<std::string> out;
  for (const SweepCell& cell : p.cells) {
    for (const auto* rates : {&cell.choice, &cell.report}) {
      for (const auto& runs : *rates) {
        for (const SweepRun& run : runs) {
          out.push_back(run.name);
        }
      }
    }
  }
  return out;
}

/// Writes what a worker would.
void finish(const SweepPlan& p, const SweepRun& run, const std::vector<SliceResult>& slices) {
  const std::string folder = p.directory() + "/" + run.name;
  create_directories(folder);
  replace_file(folder + "/config.yaml", dump_yaml(run.config));
  RunResult r{.run = "s", .model = "m", .metrics = {"tok_acc"}, .complete = true};
  r.seed = static_cast<std::uint64_t>(run.seed());
  r.steps = run.config.steps;
  r.config = dump_json(run.config);
  r.state_sizes = {{8, {.matrix = 512, .conv = 128}}};
  r.provenance = {{"commit", "abc"}};
  r.history = {{.step = 2, .split = data::Split::kValid, .slices = slices},
               {.step = r.steps, .split = data::Split::kValid, .slices = slices}};
  r.history[0].slices[0].metrics.values[0].second += 0.1;
  write_run_record(folder, r, {});
}

/// The same with this accuracy and loss.
void finish(const SweepPlan& p, const SweepRun& run, double accuracy, double loss) {
  SliceResult slice{.name = "all", .length = 8};
  slice.metrics.values = {{"tok_acc", accuracy}, {"loss", loss}};
  finish(p, run, std::vector<SliceResult>{slice});
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("sweeps: cells, names and seeds") {
    const SweepPlan p =
        plan("axes:\n  models.0.layers.0.head_dim: [4, 8]\n  clip: [1, 2]\nseeds: [3, 4]\n");
    CHECK(p.cells.size() == 6);  // the head size is no matter of the attention
    CHECK(p.size() == 12);
    CHECK_FALSE(p.chooses());
    const std::vector<std::string> all = names(p);
    CHECK(all.front() == "gated_one,head_dim=4,clip=1,seed=3");
    CHECK(std::ranges::find(all, "att,clip=2,seed=4") != all.end());
    // One value is no reason for a name; two paths that end alike have more of their keys.
    CHECK(names(plan("axes: {clip: [1], models.0.width: [8, 16], models.1.width: [8, 16]}\n"))
              .front() == "gated_one,width=8,seed=0");
    CHECK(
        names(plan("axes: {models.0.layers: [[attention], [{name: gla, heads: 2}, lstm]]}\n"))[2] ==
        "gated_one,layers=gla+heads_2+lstm,seed=0");
  }

  TEST_CASE("sweeps: rates take seeds of their own") {
    const SweepPlan p = plan("rates: [1e-3, 1e-2, 1e-1]\nseeds: [0, 1, 2]\n");
    CHECK(p.chooses());
    CHECK(p.cells.size() == 2);
    CHECK(p.size() == 2 * (3 + 2));
    CHECK(p.cells[0].choice[1][0].seed() == 0);
    CHECK(p.cells[0].report[1][0].seed() == 1);
    CHECK(p.cells[0].report[1][0].config.lr == 1e-2);
    CHECK(plan("rates: [1e-3]\nseeds: [0, 1, 2]\n").size() == 6);  // nothing to choose
    CHECK(plan("rates: [1, 2]\nseeds: [0, 1]\nchoice_seeds: [7, 8]\n").size() == 2 * (4 + 2));
    CHECK(test::says(test::message([] { plan("rates: [1, 2]\nseeds: [0]\n"); }),
                     "s.yaml:11:8: seeds: no seed is left to report"));
  }

  TEST_CASE("sweeps: runs on other data or from other weights are other runs") {
    const test::TextFolder folder(2);
    const auto apart = [](const std::string& axis) {
      const SweepPlan p = plan("axes: {" + axis + "}\nseeds: [0]\n");
      std::set<std::string> all;
      for (const SweepCell& cell : p.cells) {
        all.insert(cell.report[0][0].identity);
      }
      return all.size() == p.cells.size();
    };
    CHECK(apart("models.*.init.from: [a.h5, b.h5]"));
    CHECK(apart(fmt::format("task: [{{name: bytes, path: {0}}}, {{name: bytes, path: {0}/.}}]",
                            folder.path)));
    CHECK_FALSE(apart("prefetch: [1, 2]"));
  }

  TEST_CASE("sweeps: long names are cut and stay apart") {
    std::string axes = "axes:\n";
    for (const char* path :
         {"clip", "eval.every", "eval.batch", "scan.chunk", "horizon", "optimizer.weight_decay",
          "checkpoint.every", "models.0.norm_eps", "models.0.init_std", "accumulate"}) {
      axes += fmt::format("  {}: [{}]\n", path,
                          std::string(path) == "accumulate" ? "1, 2" : "100, 200");
    }
    std::vector<std::string> all = names(plan(axes));
    std::ranges::sort(all);
    CHECK(std::ranges::adjacent_find(all) == all.end());
    CHECK(std::ranges::all_of(all, [](const std::string& n) { return n.size() <= 120; }));
  }

  TEST_CASE("sweeps: the best rate by the last validation, and a mark at the edge") {
    const test::TextFolder folder(1);
    const SweepPlan p = plan("rates: [1e-3, 1e-2, 1e-1]\nseeds: [0, 1]\n",
                             {"output=" + folder.path, "base.eval.every=2"});
    SweepFolder found(p.directory());
    const SweepCell& cell = p.cells[0];
    const auto choice = [&] {
      found.refresh();
      return choose_rate(p, cell, found);
    };
    finish(p, cell.choice[0][0], 0.5, 1.0);
    CHECK_FALSE(choice().known);
    CHECK(open_runs(p, found).later == 2);
    finish(p, cell.choice[1][0], 0.9, 0.5);
    finish(p, cell.choice[2][0], 0.9, 0.6);
    CHECK(choice().known);
    CHECK(choice().rate == 1);  // of equal accuracies the lower loss
    CHECK_FALSE(choice().edge);
    const OpenRuns open = open_runs(p, found);
    REQUIRE(!open.runs.empty());
    CHECK(open.runs.front() == &cell.report[1][0]);
    finish(p, cell.report[1][0], 0.8, 0.5);
    found.refresh();
    const std::string table = sweep_table(p, found, 80);
    CHECK(table.find("0.800") != std::string::npos);
    CHECK(table.find("1.000") != std::string::npos);  // the published convention
    found.replace("sweep.yaml", "");
    found.replace("results.csv", results_csv(p, found));
    const ReportGroup group = load_sweep(p.directory());
    CHECK(group.runs.size() == 4);
    const std::vector<ReportCell> cells = cells_of(group);
    REQUIRE(cells.size() == 1);  // the reported seed at the chosen rate
    CHECK(cells[0].runs.size() == 1);
    CHECK(bytes_at(cells[0], 8) == 640);
    CHECK(sweep_panels(group).empty());  // one size of state, and no axis has numbers
    for (const int columns : {40, 80}) {
      LeaseNote note{.name = std::string(100, 'n'), .step = 3, .steps = 4};
      for (const std::string& line : live_table(p, found, {note}, 75, columns)) {
        CAPTURE(line);
        CHECK(columns_of(line) < static_cast<std::size_t>(columns));
      }
    }
    const std::string csv = results_csv(p, found);
    CHECK(csv.find("report,yes,no,finished,4,valid,all,0.8,0.5,1,") != std::string::npos);
  }

  TEST_CASE("sweeps: rates are compared over settings that all of them ran") {
    const test::TextFolder folder(1);
    const SweepPlan p = plan("rates: [1e-3, 1e-2]\nseeds: [0, 1]\n",
                             {"output=" + folder.path, "base.eval.every=2"});
    const SweepCell& cell = p.cells[0];
    const auto slice = [](const char* name, double accuracy) {
      SliceResult s{.name = name, .length = 8};
      s.metrics.values = {{"tok_acc", accuracy}, {"loss", 1}};
      return s;
    };
    SliceResult skipped{.name = "long", .length = 64, .not_run = "needs 9 GiB of memory"};
    finish(p, cell.choice[0][0], {slice("short", 0.8), slice("long", 0.1)});
    finish(p, cell.choice[1][0], {slice("short", 0.7), skipped});
    SweepFolder found(p.directory());
    found.refresh();
    CHECK(choose_rate(p, cell, found).rate == 0);
    CHECK(test::says(
        test::message([] { plan("rates: [1, 2]\nseeds: [0, 1]\n", {"base.eval.max_seconds=3"}); }),
        "follows from the clock"));
  }

  TEST_CASE("sweeps: a rate whose validation is no number is not chosen") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (const std::size_t good : {0, 1, 2}) {
      CAPTURE(good);
      const test::TextFolder folder(1);
      const SweepPlan p = plan("rates: [1e-3, 1e-2, 1e-1]\nseeds: [0, 1]\n",
                               {"output=" + folder.path, "base.eval.every=2"});
      const SweepCell& cell = p.cells[0];
      for (std::size_t r = 0; r < 3; ++r) {
        finish(p, cell.choice[r][0], r == good ? 0.2 : nan, r == good ? 1 : nan);
      }
      SweepFolder found(p.directory());
      found.refresh();
      const RateChoice choice = choose_rate(p, cell, found);
      CHECK(choice.known);
      CHECK(choice.rate == static_cast<Index>(good));
    }
  }

  TEST_CASE("sweeps: a run counts by its resolved config, with defaults for what it lacks") {
    const test::TextFolder folder(1);
    const SweepPlan p = plan("seeds: [0]\n", {"output=" + folder.path});
    const SweepRun& run = p.cells[0].report[0][0];
    const std::string config = p.directory() + "/" + run.name + "/config.yaml";
    const auto counts = [&](const std::string& from, const std::string& to) {
      finish(p, run, 0.5, 1);
      std::string text = read_file(config);
      REQUIRE(text.find(from) != std::string::npos);
      replace_file(config, text.replace(text.find(from), from.size(), to));
      SweepFolder found(p.directory());
      const bool ended = found.ended(run) != nullptr;
      // Where it does not count, its folder is left alone and the run has another.
      CHECK(found.name_of(run) == run.name + (ended ? "" : "~2"));
      return ended;
    };
    CHECK(counts("clip: 1\n", ""));                  // an option that came later, at its default
    CHECK(counts("log_every: 10", "log_every: 7"));  // changes no number
    CHECK(counts("every: 0\n  keep", "every: 5\n  keep"));
    CHECK_FALSE(counts("clip: 1\n", "clip: 2\n"));  // what was a default then is not now
    CHECK_FALSE(counts("batch: 2\n", "batch: 3\n"));
    CHECK_FALSE(counts("clip: 1\n", "klip: 1\n"));  // is not read any more
  }

  TEST_CASE("sweeps: models are matched in state and in parameters") {
    const auto matched = [](const std::string& match, std::size_t model, const std::string& more) {
      RunConfig config = plan(more).cells[model].configs[0];
      const auto task = data::make_task(config.task, {.seed = 0});
      match_model(read_config_text<MatchConfig>(match), config, *task, "m");
      return std::pair(
          layers::Model(config.models[0], model_interface(*task), 0).parameters().count(),
          layers::Model(config.models[0], model_interface(*task), 0).measure_state(64).total());
    };
    // Two heads of 4 d^2 values twice as wide; keys and values of 64 tokens.
    const Index state = matched("{state_bytes: 8192, at: 64, by: 'head_dim, width'}", 0, "").second;
    CHECK(std::abs(static_cast<double>(state) / 8192 - 1) <= 0.05);
    const Index kv = matched("{state_bytes: 8192, at: 64, by: 'head_dim, width'}", 1, "").second;
    CHECK(std::abs(static_cast<double>(kv) / 8192 - 1) <= 0.05);
    for (const std::size_t model : {0, 1}) {
      const Index n = matched("{parameters: 30000, by: width}", model, "").first;
      CHECK(std::abs(static_cast<double>(n) / 30000 - 1) <= 0.05);
    }
    // A fraction of the width is solved for in channels.
    RunConfig gla = plan("", {"base.models.0.layers=[{name: gla, heads: 1}]"}).cells[0].configs[0];
    const auto parity = data::make_task(gla.task, {.seed = 0});
    match_model(read_config_text<MatchConfig>("{state_bytes: 160, at: 64, by: expand_k}"), gla,
                *parity, "m");
    CHECK(layers::Model(gla.models[0], model_interface(*parity), 0).measure_state(64).total() ==
          160);
    const auto said = [&](const std::string& match) {
      return test::message([&] { matched(match, 0, ""); });
    };
    CHECK(test::says(said("{state_bytes: 3, at: 64, by: head_dim}"), "at most 5 % are allowed"));
    CHECK(test::says(said("{state_bytes: 3, at: 64, by: nothing}"),
                     "neither the model 'm' nor its mixers have a number 'nothing'"));
    CHECK(test::says(said("{state_bytes: 3, parameters: 4, by: width}"), "one of them"));
    // In a plan, every model by itself.
    // Learned states are parameters too.
    const SweepPlan with = plan("match: {parameters: 30000, by: width}\n", {"base.state=learned"});
    for (const SweepCell& cell : with.cells) {
      const RunConfig& config = cell.configs.front();
      const auto task = data::make_task(config.task, {});
      const auto model = make_model(config, config.models[0], model_interface(*task), 0);
      const Index count = model->parameters().count();
      CHECK(count_parameters(config.models[0], model_interface(*task), true) == count);
      const Index without = count_parameters(config.models[0], model_interface(*task), false);
      CHECK((without < count) == (cell.model != "att"));  // whose keys and values are not learned
      CHECK(std::abs(count - 30000) < 1500);
    }
    const SweepPlan p = plan("match: {parameters: 30000, by: width}\n");
    CHECK(p.cells[0].configs[0].models[0].width != 8);
  }
}
