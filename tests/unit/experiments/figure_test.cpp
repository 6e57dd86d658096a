// The figure's script: gnuplot takes it without a word, whatever the values are.
#include "experiments/figure.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <filesystem>

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
        {"one evaluation of several seeds", panel({{"a", {3}, {0.7}, {0.1}}})},
        {"one evaluation of two models", panel({{"a", {3}, {0.7}, {}}, {"b", {3}, {0.7}, {}}})},
        {"one evaluation, fixed axis", panel({{"a", {3}, {0}, {}}}, 1.02)},
        {"equal values", panel({{"a", {1, 2, 3}, {0.7, 0.7, 0.7}, {}}})},
        {"zeros", panel({{"a", {0, 1}, {0, 0}, {0, 0}}})},
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
    for (const char* kind : {".svg", ".gp", ".dat"}) {
      fs::remove(path + kind);
    }
  }
}
