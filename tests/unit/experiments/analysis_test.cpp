// Statistics of reports on data whose answer is known.
#include "experiments/report/analysis.h"

#include <doctest/doctest.h>

#include <cmath>

#include "core/base/rng.h"
#include "experiments/report/panels.h"

using namespace ls;
using namespace ls::experiments;

namespace {

ReportedRun run_of(const std::string& model, std::vector<std::string> axes, Index bytes,
                   std::uint64_t seed, const std::vector<std::pair<Index, double>>& by_pairs) {
  ReportedRun run{.name = model, .axes = std::move(axes)};
  run.result.model = model;
  run.result.metrics = {"tok_acc"};
  run.result.seed = seed;
  run.result.complete = true;
  run.result.steps = 1;
  run.result.config = R"({"task": {"name": "mqar", "variant": "standard"},)"
                      R"( "models": [{"layers": [{"name": "gla"}]}]})";
  Evaluation e{.step = 1, .split = data::Split::kTest};
  for (const auto& [pairs, value] : by_pairs) {
    e.slices.push_back({.name = fmt::format("K{}", pairs),
                        .length = 2 * pairs,
                        .setting = {{"pairs", pairs}},
                        .metrics = {{{"tok_acc", value}}}});
    run.result.state_sizes.push_back({2 * pairs, {.matrix = bytes}});
  }
  run.result.zoology_state = 2 * bytes;
  run.result.history = {e};
  return run;
}

/// Accuracy 1 / (1 + (K / K50)^2) with K50 = bytes / 64, and noise between seeds.
ReportGroup synthetic(std::size_t seeds, double noise) {
  ReportGroup group{.name = "synthetic", .sweep = true, .axes = {"head_dim"}};
  for (const Index bytes : {512, 1024, 2048, 4096}) {
    for (std::size_t s = 0; s < seeds; ++s) {
      Rng rng(s, "noise", static_cast<std::uint64_t>(bytes));
      std::vector<std::pair<Index, double>> values;
      const double half = static_cast<double>(bytes) / 64 * std::exp2(noise * rng.normal());
      for (const Index k : {2, 4, 8, 16, 32, 64, 128}) {
        values.emplace_back(k, 1 / (1 + std::pow(static_cast<double>(k) / half, 2)));
      }
      group.runs.push_back(run_of("m", {std::to_string(bytes)}, bytes, s, values));
    }
  }
  return group;
}

const ReportTable* find(const std::vector<ReportTable>& tables, const std::string& title) {
  for (const ReportTable& t : tables) {
    if (t.title == title) {
      return &t;
    }
  }
  return nullptr;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("reports: the bootstrap interval of a mean covers it as often as it says") {
    Index covered = 0;
    constexpr Index kTries = 200, kSeeds = 20;
    for (Index t = 0; t < kTries; ++t) {
      Rng rng(3, "values", static_cast<std::uint64_t>(t));
      std::vector<double> values;
      for (Index i = 0; i < kSeeds; ++i) {
        values.push_back(5 + rng.normal());
      }
      const auto interval = bootstrap_mean(values);
      REQUIRE(interval);
      CHECK(interval->low < interval->high);
      covered += interval->low <= 5 && 5 <= interval->high ? 1 : 0;
      const auto again = bootstrap_mean(values);
      CHECK(again->low == interval->low);
      CHECK(again->high == interval->high);
    }
    // Of 95 % in the limit; of 20 values the percentile interval covers about 93 %.
    CHECK(covered >= kTries * 88 / 100);
    CHECK(covered <= kTries * 98 / 100);
    CHECK_FALSE(bootstrap_mean({1, 2, 3, 4}));  // fewer than five seeds are points
    CHECK_FALSE(bootstrap_mean({}));
  }

  TEST_CASE("reports: the Pareto front of points") {
    using Points = std::vector<std::pair<double, double>>;
    CHECK(pareto_front(Points{{4, 0.5}, {1, 0.2}, {2, 0.1}, {2, 0.6}, {8, 0.6}, {16, 0.7}}) ==
          std::vector<std::size_t>{1, 3, 5});
    CHECK(pareto_front(Points{{1, 0.5}, {1, 0.5}}) == std::vector<std::size_t>{0});
    CHECK(pareto_front(Points{{1, NAN}, {2, 0.5}}) == std::vector<std::size_t>{1});
    CHECK(pareto_front({}).empty());
  }

  TEST_CASE("reports: logistic and straight fits find what made the points") {
    for (const double slope : {-3.0, -0.8, 0.8, 2.5}) {
      for (const double middle : {1.5, 4.0, 7.5}) {
        CAPTURE(slope);
        CAPTURE(middle);
        const LogisticFit truth{middle, slope};
        std::vector<std::pair<double, double>> points;
        for (int x = 1; x <= 8; ++x) {
          points.emplace_back(x, truth.at(x));
        }
        const auto fit = fit_logistic(points);
        REQUIRE(fit);
        CHECK(fit->middle == doctest::Approx(middle).epsilon(1e-3));
        CHECK(fit->slope == doctest::Approx(slope).epsilon(1e-3));
        CHECK(fit->at(fit->reaches(0.9)) == doctest::Approx(0.9));
      }
    }
    CHECK_FALSE(fit_logistic({{1, 0.5}, {2, 0.4}}));
    const auto line = fit_line({{0, 1}, {1, 3}, {2, 5}});
    REQUIRE(line);
    CHECK(line->at_zero == doctest::Approx(1));
    CHECK(line->slope == doctest::Approx(2));
    CHECK_FALSE(fit_line({{1, 1}, {1, 2}}));
  }

  TEST_CASE("reports: capacity, its interval and its slope of synthetic seeds") {
    const ReportGroup exact = synthetic(1, 0);
    const std::vector<ReportTable> tables = tables_of(exact);
    const ReportTable* fits = find(tables, "Fitted capacities");
    REQUIRE(fits != nullptr);
    REQUIRE(fits->rows.size() == 4);
    CHECK(fits->rows[0][2] == "8.0");
    CHECK(fits->rows[3][2] == "64.0");
    CHECK(fits->rows[0][3] == "-");  // of one seed there is no interval
    const ReportTable* slopes = find(tables, "Slope of log K50 over log bytes");
    REQUIRE(slopes != nullptr);
    CHECK(slopes->rows[0][2] == "1.00");
    const ReportTable* axis = find(tables, "Where Zoology's axis differs");
    REQUIRE(axis != nullptr);
    CHECK(axis->caption == "At 256 tokens they differ for 4 of 4 cells.");
    CHECK(axis->rows[0] == std::vector<std::string>{"m, head_dim 512", "512", "1024", "2.000"});

    const std::vector<ReportTable> noisy = tables_of(synthetic(6, 0.2));
    const std::string interval = find(noisy, "Fitted capacities")->rows[0][3];
    double low = 0, high = 0;
    REQUIRE(std::sscanf(interval.c_str(), "%lf to %lf", &low, &high) == 2);
    CHECK(low < 8);
    CHECK(high > 8);
    CHECK(low > 5);
    CHECK(high < 12);
  }

  TEST_CASE("reports: one line joins cells of one axis, and seeds are points or an interval") {
    ReportGroup group{.name = "g", .sweep = true, .axes = {"head_dim", "expand", "conv"}};
    for (const Index dim : {8, 16, 32}) {
      for (const char* conv : {"0", "4"}) {
        const Index bytes = dim * dim * 4 + (conv[0] == '4' ? 16 : 0);
        group.runs.push_back(run_of("m", {std::to_string(dim), std::to_string(64 / dim), conv},
                                    bytes, 0, {{2, 0.5}, {4, 0.25}}));
      }
    }
    const std::vector<ReportCell> cells = cells_of(group);
    CHECK(cells.size() == 6);
    const auto lines = lines_of(group, cells, [](const auto& c) { return bytes_at(c, 4); });
    REQUIRE(lines.size() == 2);  // head_dim and expand change together; conv splits
    CHECK(lines[0].label == "m, conv 0");
    CHECK(lines[1].label == "m, conv 4");
    CHECK(lines[0].cells.size() == 3);
    CHECK(lines[0].style.color == lines[1].style.color);
    CHECK(lines[0].style.dash != lines[1].style.dash);

    const auto kinds = [](std::size_t seeds) {
      std::string text;
      for (const Panel& panel : sweep_panels(synthetic(seeds, 0.2))) {
        for (const Series& s : panel.series) {
          text += s.kind + (s.low.empty() ? " " : "+ ");
        }
        break;
      }
      return text;
    };
    CHECK(kinds(4) == "front mean seed ");
    CHECK(kinds(5) == "front mean+ ");
  }

  TEST_CASE("reports: published points stand beside the same task, slices and axis alone") {
    const ReportGroup group = synthetic(1, 0);
    PublishedPoint point{.source = "a paper, figure 1",
                         .task = "mqar",
                         .slices = "4:2",
                         .model = "GLA",
                         .mixer = "gla",
                         .x = "state bytes",
                         .at = 700,
                         .metric = "tok_acc",
                         .value = 0.9,
                         .reading = "figure",
                         .error = 0.02};
    const auto drawn = [&] {
      Index n = 0;
      for (const Figure& figure : figures_of(group, {point})) {
        for (const Panel& panel : figure.panels) {
          for (const Series& s : panel.series) {
            if (s.kind == "published") {
              ++n;
              CHECK(s.hollow);
              CHECK(s.style->color == style_of("gla").color);
              CHECK(s.low[0] == doctest::Approx(0.88));
            }
          }
        }
      }
      return n;
    };
    CHECK(drawn() == 1);
    point.slices = "4:3";
    CHECK(drawn() == 0);
    point.slices = "4:2";
    point.variant = "continuous";
    CHECK(drawn() == 0);
  }
}
