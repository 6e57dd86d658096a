// What the program says of itself: help texts, listings and tables, in any width.
#include <doctest/doctest.h>

#include <algorithm>
#include <cctype>
#include <sstream>

#include "core/op/op.h"
#include "tests/e2e/program.h"
#include "tests/support/skip.h"

using namespace ls;
using testing::Outcome;
using testing::Workplace;

namespace {

/// Columns of the widest line. Warnings, for instance of a missing gnuplot, are left as they are.
int widest(const std::string& text) {
  int most = 0;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    if (line.substr(std::min<std::size_t>(8, line.size()), 6) == " warn ") {
      continue;
    }
    while (!line.empty() && line.back() == '\r') {
      line.pop_back();
    }
    most = std::max(most, static_cast<int>(std::count_if(line.begin(), line.end(), [](char c) {
                      return (c & 0xc0) != 0x80;
                    })));
  }
  return most;
}

}  // namespace

TEST_SUITE("e2e") {
  TEST_CASE("eval --help names fields that tasks have") {
    const Workplace w;
    const Outcome out = w.run({"eval", "--help"});
    INFO(out.text);
    CHECK(out.status == 0);
    CHECK(out.text.find("eval_lengths") == std::string::npos);
    std::string flat = out.text;  // CLI11 breaks lines where it likes
    flat.erase(std::unique(flat.begin(), flat.end(),
                           [](char a, char b) { return std::isspace(a) && std::isspace(b); }),
               flat.end());
    std::replace(flat.begin(), flat.end(), '\n', ' ');
    for (const char* field : {"task.test ", "task.test_lengths", "task.test_blanks", "parity"}) {
      CAPTURE(field);
      CHECK(flat.find(field) != std::string::npos);
    }
  }

  TEST_CASE("describe knows every op: contract, gradients, attributes, forms") {
    const Workplace w;
    for (const std::string& name : op_registry().names()) {
      const Outcome out = w.run({"describe", name});
      CAPTURE(name);
      INFO(out.text);
      CHECK(out.status == 0);
      const OpInfo& op = *op_registry().at(name);
      CHECK(out.text.find(op.contract_in) != std::string::npos);
      CHECK(out.text.find(op.contract_out) != std::string::npos);
      for (const AttrInfo& a : op.attrs) {
        CAPTURE(a.name);
        CHECK_FALSE(a.help.empty());
        CHECK(out.text.find("\n" + a.name + " ") != std::string::npos);
        CHECK(out.text.find(a.help) != std::string::npos);
      }
    }
    const Outcome out = w.run({"describe", "delta_rule"});
    for (const char* text : {"recurrent, chunk", "family delta", "\noffsets[N1]:i64?     none",
                             "auto, recurrent, chunk, parallel", "qk_l2norm", "false"}) {
      CAPTURE(text);
      CHECK(out.text.find(text) != std::string::npos);
    }
    CHECK(w.run({"describe", "delta_rul"}).text.find("did you mean 'delta_rule'") !=
          std::string::npos);
  }

  TEST_CASE("listings and tables follow the width of the terminal") {
    const Workplace w;
    if (w.shell("script --version").status != 0) {
      test::skipped("there is no 'script' to make a terminal with");
      return;
    }
    w.write("run.yaml",
            "name: run\ntask: {name: parity, length: 8, test_lengths: [8, 16, 24, 32, 40, 48], "
            "test_examples: 8}\nmodels:\n  - {name: a_longer_model_name, layers: "
            "[deltanet], width: 8, channel: none}\nsteps: 60\nbatch: 2\n");
    for (const int columns : {80, 100}) {
      for (const std::string command :
           {"list", "info", "describe gated_deltanet", "describe attention", "describe rms_norm",
            "describe delta_rule", "describe mqar", "train run.yaml --fresh",
            "eval runs/run/*/seed0/checkpoints/step_000000060.h5"}) {
        const Outcome out =
            w.shell("export longscan\nscript -qec 'stty cols " + std::to_string(columns) +
                    "; $longscan " + command + "' /dev/null | sed 's/.*\\r.\\[K//'");
        CAPTURE(command);
        CAPTURE(columns);
        INFO(out.text);
        CHECK(out.status == 0);
        CHECK(widest(out.text) <= columns);
      }
    }
    // Not a terminal: one line an entry, for other programs.
    CHECK(widest(w.run({"list", "ops"}).text) > 100);
  }
}
