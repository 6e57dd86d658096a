// The figure's script: gnuplot takes it without a word, whatever the values are.
#include "experiments/figure.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>

#include "core/io/files.h"
#include "experiments/csv.h"
#include "layers/mixers/mixer.h"
#include "tests/support/errors.h"
#include "tests/support/skip.h"

using namespace ls;
using namespace ls::experiments;

namespace {

namespace fs = std::filesystem;

/// What gnuplot says to the script once more.
std::string complaints(const std::string& script) {
  std::FILE* const pipe = popen(("gnuplot '" + script + "' 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  char buffer[256];
  for (std::size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) {
    text.append(buffer, n);
  }
  text += pclose(pipe) == 0 ? "" : "[failed]";
  return text;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("figure: single evaluations, equal values and values that are missing") {
    const std::string path = (fs::temp_directory_path() / std::to_string(getpid())).string();
    const auto panel = [](std::vector<Series> series, double y_max = 0) {
      return Panel{"title", "update", "loss", std::move(series), 0, y_max};
    };
    const struct {
      const char* name;
      Panel panel;
    } cases[] = {
        {"one evaluation", panel({{"a", {3}, {0.7}, {}}})},
        {"one evaluation of several seeds", panel({{"a", {3}, {0.7}, {0.6}, {0.8}}})},
        {"one evaluation of two models", panel({{"a", {3}, {0.7}, {}}, {"b", {3}, {0.7}, {}}})},
        {"one evaluation, fixed axis", panel({{"a", {3}, {0}, {}}}, 1.02)},
        {"equal values", panel({{"a", {1, 2, 3}, {0.7, 0.7, 0.7}, {}}})},
        {"zeros", panel({{"a", {0, 1}, {0, 0}, {0, 0}, {0, 0}}})},
        {"nearly equal values", panel({{"a", {1, 2}, {1, std::nextafter(1.0, 2.0)}, {}}})},
        {"a single point of several", panel({{"a", {1, 2, 3}, {NAN, 0.5, INFINITY}, {}}})},
        {"points lost in the middle",
         panel({{"a", {1, 2, 3, 4, 5}, {1, NAN, NAN, NAN, 2}, {}}, {"b", {1, 2}, {3, 4}, {}}})},
        {"one model without points",
         panel({{"a", {1, 2}, {NAN, NAN}, {}}, {"b", {1, 2}, {3, 4}, {}}})},
        {"no points", panel({{"a", {1, 2}, {NAN, NAN}, {}}})},
        {"no points, fixed axis", panel({{"a", {1, 2}, {NAN, NAN}, {}}}, 1.02)},
        {"no series", panel({})},
    };
    for (const auto& [name, panel] : cases) {
      CAPTURE(std::string(name));
      const std::string why = draw_figure(path, {panel, panel});
      if (why.find("not installed") != std::string::npos) {
        test::skipped(why);
        break;
      }
      CHECK(why.empty());
      CHECK(complaints(path + ".gp").empty());
      CHECK(fs::file_size(path + ".svg") > 1000);
    }
    const std::vector<Panel> three(3, panel({{"a", {1, 2}, {3, 4}}}));
    for (const std::size_t panels : {1, 3}) {
      CAPTURE(panels);
      const std::string why =
          draw_figure(path, {three.begin(), three.begin() + static_cast<std::ptrdiff_t>(panels)},
                      {.png = true, .pdf = true});
      CHECK((why.empty() || why.find("not installed") != std::string::npos));
      if (why.empty()) {
        CHECK(read_file(path + ".png").starts_with("\x89PNG"));
        const std::string pdf = read_file(path + ".pdf");
        CHECK(pdf.find("/FontFile") != std::string::npos);  // embedded
        // 3.25 and 6.75 inches at 72 points.
        CHECK(pdf.find(panels == 1 ? "[ 0 0 234 " : "[ 0 0 486 ") != std::string::npos);
      }
    }
    for (const char* kind : {".svg", ".gp", ".dat", ".png", ".pdf"}) {
      fs::remove(path + kind);
    }
  }

  TEST_CASE("figure: the CSV has what is drawn, and reads back") {
    const std::vector<Panel> panels = {{"a, \"b\"",
                                        "x",
                                        "y",
                                        {{.label = "s",
                                          .x = {1, 2, 3},
                                          .y = {0.5, NAN, 0.1},
                                          .low = {0.4, NAN, 0},
                                          .high = {0.6, NAN, 0.2},
                                          .sources = {{"run 1", ""}, {}, {"run\n2", ""}}}}}};
    const CsvTable table = read_csv(figure_csv(panels), "f.csv");
    REQUIRE(table.rows.size() == 2);
    CHECK(table.at(0, "panel") == "a, \"b\"");
    CHECK(table.at(1, "y") == "0.1");
    CHECK(table.at(1, "high") == "0.2");
    CHECK(table.at(1, "source") == "run\n2");
    CHECK(table.at(1, "nosuch").empty());
    CHECK(test::says(test::message([] { read_csv("a,b\n1,2\n3\n", "p.csv"); }),
                     "p.csv:3: the row has 1 cells, the header 2"));
    CHECK(test::says(test::message([] { read_csv("a\n\"1\n", "p.csv"); }), "not closed"));
    CHECK(read_csv("# why\na,b\r\n1,\r\n", "p.csv").rows[0][1].empty());
  }

  TEST_CASE("figure: ticks at powers of two") {
    const auto texts = [](double low, double high, AxisUnit unit) {
      std::string out;
      for (const auto& [value, text] : binary_axis(low, high, unit).ticks) {
        out += text + " ";
      }
      return out;
    };
    CHECK(texts(768, 8192, AxisUnit::kBytes) == "1 KiB 2 KiB 4 KiB 8 KiB ");
    CHECK(texts(512, 2048, AxisUnit::kTokens) == "512 1k 2k ");
    CHECK(texts(0.25, 1, AxisUnit::kNumber) == "0.25 0.5 1 ");
    CHECK(texts(1100, 1200, AxisUnit::kTokens) == "1k 2k ");  // the nearest where none is inside
    CHECK(texts(64, 64, AxisUnit::kTokens) == "64 128 ");
    CHECK(binary_axis(1, 1e6, AxisUnit::kNumber).ticks.size() <= 10);
  }

  TEST_CASE("figure: every mixer has a color and marker of its own") {
    std::map<std::pair<std::string_view, Marker>, std::string> seen;
    for (const std::string& name : layers::TokenMixer::registry().names()) {
      if (name.starts_with("wrong_")) {
        continue;  // of the tests
      }
      const Style style = style_of(name);
      const auto [at, fresh] = seen.emplace(std::pair(style.color, style.marker), name);
      INFO(name << " looks like " << at->second << ": give it a line in experiments/style.cpp");
      CHECK(fresh);
    }
    CHECK(style_of("gla") == style_of("gla"));
    const auto twice = styles_of({"gla", "deltanet", "gla"});
    CHECK(twice[0].color == twice[2].color);
    CHECK(twice[0].dash != twice[2].dash);
    CHECK(style_of("(3-gram)").color == kGrey);
  }
}
