// Tables and progress within the columns of a terminal.
#include "experiments/table.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>

#include "experiments/progress.h"

using namespace ls::experiments;

namespace {

int columns(const std::string& s) {
  return static_cast<int>(
      std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}
int widest(const std::string& text) {
  int most = 0;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) {
    most = std::max(most, columns(line));
  }
  return most;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("tables: long texts are broken at spaces to fit") {
    Table t({"op", "inputs", "what"});
    t.add({"attention", "q[B,Tq,HQ,Dk] k[B,Tk,H,Dk] v[B,Tk,H,Dv] k0[B,T0,H,Dk]?",
           "softmax attention in blocks, with a window, a cap and a bias"});
    t.add({"glu", "x[...,D]", "gated linear unit"});
    CHECK(widest(t.str()) > 100);
    for (const int width : {120, 80, 60, 48}) {
      const std::string text = t.str(width);
      INFO(text);
      CHECK(widest(text) <= width);
      CHECK(text.find("\nattention  q[B") != std::string::npos);
      for (const char* word : {"k0[B,T0,H,Dk]?", "softmax", "bias", "gated"}) {
        CHECK(text.find(word) != std::string::npos);
      }
    }
    CHECK(t.str(1000) == t.str());
  }

  TEST_CASE("tables: columns of numbers that do not fit follow below") {
    std::vector<std::string> header = {"model"}, row = {"gated_deltanet"};
    for (int i = 0; i < 12; ++i) {
      header.push_back("T" + std::to_string(20 * (i + 1)) + " tok_acc");
      row.push_back("0.12" + std::to_string(i));
    }
    Table t(header);
    t.add(row);
    const std::string text = t.str(80);
    INFO(text);
    CHECK(widest(text) <= 80);
    for (std::size_t i = 1; i < header.size(); ++i) {
      CHECK(text.find(header[i]) != std::string::npos);
      CHECK(text.find(row[i]) != std::string::npos);
    }
    std::size_t names = 0;
    for (std::size_t at = 0; (at = text.find("gated_deltanet", at)) != std::string::npos; ++at) {
      ++names;
    }
    CHECK(names == 3);
  }

  TEST_CASE("tables: a name longer than the terminal") {
    Table t({"model", "loss"});
    t.add({std::string(150, 'x'), "1.0"});
    CHECK(widest(t.str(80)) <= 80);
    CHECK(widest(t.str(5)) <= 11);
  }

  TEST_CASE("progress: the most important numbers fit any width") {
    const std::vector<std::string> numbers = {"1000/2000",   "loss 0.1234", "ETA 3 min 05 s",
                                              "12.3k tok/s", "123.4 MiB",   "data wait 0 %"};
    for (int width = 1; width <= 200; ++width) {
      const std::string line =
          progress_line("gated_deltanetx3+attention seed 0", numbers, 0.5, width);
      CAPTURE(width);
      CAPTURE(line);
      CHECK(columns(line) < std::max(2, width));
    }
    const std::string at80 = progress_line("gated_deltanetx3+attention seed 0", numbers, 0.5, 80);
    CHECK(at80.find("gated_deltanetx3+attention seed 0 ") == 0);
    CHECK(at80.find("1000/2000  loss 0.1234  ETA 3 min 05 s") != std::string::npos);
    const std::string wide = progress_line("m", numbers, 0.5, 140);
    CHECK(wide.find("data wait 0 %") != std::string::npos);
    CHECK(wide.find("█") != std::string::npos);
  }
}
