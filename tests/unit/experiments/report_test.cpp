// Evaluations as records, and the tables and figures that are made of them.
#include "experiments/report.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/io/files.h"

using namespace ls;
using namespace ls::experiments;

namespace {

namespace fs = std::filesystem;

SliceResult slice(const std::string& name, Index length, data::SliceSetting setting,
                  Metrics metrics) {
  return {.name = name,
          .length = length,
          .setting = std::move(setting),
          .labels = 10,
          .metrics = std::move(metrics),
          .positions = {{.from = 1, .to = 1, .labels = 4, .loss = 0.25, .accuracy = 0.5},
                        {.from = 4, .to = 7, .labels = 6, .loss = 0.5, .accuracy = 1}}};
}

Evaluation lengths(Index step, data::Split split, double first) {
  Evaluation e{.step = step, .split = split};
  for (const Index t : {20, 40, 80, 240}) {
    e.slices.push_back(
        slice(fmt::format("T{}", t), t, {}, {{{"tok_acc", first}, {"loss", 0.125}}}));
    first /= 2;
  }
  return e;
}

RunResult result(const std::string& model, std::vector<Evaluation> history) {
  RunResult r{.run = "r", .model = model, .metrics = {"tok_acc", "seq_acc"}, .complete = true};
  r.train_length = 20;
  r.history = std::move(history);
  r.config = "{}";
  return r;
}

std::vector<std::string> words(const std::string& line) {
  std::vector<std::string> out;
  std::string word;
  for (const char c : line + "  ") {
    if (c != ' ') {
      word += c;
    } else if (!word.empty()) {
      out.push_back(word);
      word.clear();
    }
  }
  return out;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) {
    ++n;
  }
  return n;
}

struct Folder {
  Folder() {
    std::string pattern = (fs::temp_directory_path() / "longscan-report-XXXXXX").string();
    path = mkdtemp(pattern.data());
  }
  ~Folder() { fs::remove_all(path); }
  std::string path;
};

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("an evaluation is read back from its JSON as it was") {
    Evaluation e = lengths(7, data::Split::kTest, 0.5);
    e.slices[1].setting = {{"pairs", 4}, {"updates", 2}};
    e.slices[1].metrics.values.emplace_back("tok_acc/updated", NAN);
    const auto j = nlohmann::ordered_json::parse(nlohmann::ordered_json(e).dump());
    CHECK(j.at("eval").at(1).at("length") == 40);
    CHECK(j.at("eval").at(1).at("setting").at("updates") == 2);
    CHECK(j.at("eval").at(1).at("metrics").at("tok_acc/updated").is_null());
    const auto back = j.get<Evaluation>();
    CHECK(nlohmann::ordered_json(back).dump() == j.dump());
    CHECK(back.step == 7);
    CHECK(back.split == data::Split::kTest);
    CHECK(back.slices[1].setting == e.slices[1].setting);
    CHECK(back.slices[1].metrics.at("tok_acc") == 0.25);
    CHECK(std::isnan(back.slices[1].metrics.at("tok_acc/updated")));
    CHECK(back.slices[3].positions[1].loss == 0.5);
    CHECK(back.find("T240") == &back.slices[3]);
    CHECK(back.find("T24") == nullptr);
    CHECK_THROWS_AS(back.slices[0].metrics.at("ex_acc"), Error);
  }

  TEST_CASE("the table keeps the order of the slices and says which metrics it does not show") {
    const std::string table = results_table({result("m", {lengths(5, data::Split::kTest, 0.8)})});
    INFO(table);
    std::size_t at = 0;
    for (const char* header : {"T20 tok_acc", "T40 tok_acc", "T80 tok_acc", "T240 tok_acc"}) {
      const std::size_t here = table.find(header);
      REQUIRE(here != std::string::npos);
      CHECK(here > at);
      at = here;
    }
    CHECK(table.find("also in run.h5, and by position: loss\n") != std::string::npos);
    const auto row = words(lines_of(table)[2]);
    CHECK(std::vector<std::string>(row.begin() + 3, row.begin() + 7) ==
          std::vector<std::string>{"0.800", "0.400", "0.200", "0.100"});
  }

  TEST_CASE("the table has the union of what the results have, each value under its name") {
    const auto with = [](const std::string& model, Metrics metrics) {
      Evaluation e{.step = 1, .split = data::Split::kTest};
      e.slices.push_back(slice("T8.K4.U4", 8, {{"pairs", 4}}, std::move(metrics)));
      return result(model, {e});
    };
    const std::string table = results_table(
        {with("a", {{{"tok_acc", 0.1}, {"tok_acc/updated", 0.2}}}),
         with("b", {{{"tok_acc", 0.3}, {"tok_acc/untouched", 0.4}}}), result("c", {})});
    INFO(table);
    const auto rows = lines_of(table);
    REQUIRE(rows.size() == 5);
    const auto header = words(rows[0]);
    CHECK(std::vector<std::string>(header.begin() + 4, header.begin() + 7) ==
          std::vector<std::string>{"tok_acc", "tok_acc/updated", "tok_acc/untouched"});
    const auto cells = [&](std::size_t r) {
      const auto row = words(rows[r]);
      return std::vector<std::string>(row.begin() + 3, row.begin() + 6);
    };
    CHECK(cells(2) == std::vector<std::string>{"0.100", "0.200", "-"});
    CHECK(cells(3) == std::vector<std::string>{"0.300", "-", "0.400"});
    CHECK(cells(4) == std::vector<std::string>{"-", "-", "-"});
  }

  TEST_CASE("figures: metric against length, curves of one split, what is left out") {
    const Folder folder;
    std::vector<RunResult> results;
    for (const char* model : {"a", "b"}) {
      results.push_back(result(
          model, {lengths(1, data::Split::kValid, 0.5), lengths(2, data::Split::kValid, 0.75),
                  lengths(3, data::Split::kTest, 1)}));
    }
    results_figures(results, folder.path);
    const std::string script = read_file(folder.path + "/figure.gp");
    const std::string data = read_file(folder.path + "/figure.dat");
    INFO(script << data);
    CHECK(count(script, "set title ") == 5);
    CHECK(count(script, "set key center") == 1);
    CHECK(count(script, "set xlabel 'length in tokens'") == 1);
    CHECK(count(script, "lines: validation, marks: test") == 4);
    // The first series: the final metric of model a by length, in order.
    CHECK(data.starts_with("20 1 1 1\n40 0.5 0.5 0.5\n80 0.25 0.25 0.25\n240 0.125 0.125 0.125\n"));
    // A curve has the validations only, the test stands alone.
    CHECK(data.find("\n\n1 0.5 0.5 0.5\n2 0.75 0.75 0.75\n\n\n3 1 1 1\n") != std::string::npos);
    const std::string positions = read_file(folder.path + "/positions.gp");
    CHECK(count(positions, "set title ") == 8);
    CHECK(count(positions, "set logscale x 2") == 8);

    // Slices that differ in more than their length have no such panel; many panels are cut, said.
    for (RunResult& r : results) {
      for (Evaluation& e : r.history) {
        for (Index i = 0; i < 10; ++i) {
          e.slices.push_back(slice(fmt::format("K{}", i), 20, {{"pairs", i}}, {{{"tok_acc", 1}}}));
        }
        e.slices.erase(e.slices.begin() + 1, e.slices.begin() + 4);
      }
    }
    results_figures(results, folder.path);
    const std::string many = read_file(folder.path + "/positions.gp");
    INFO(many);
    CHECK(count(read_file(folder.path + "/figure.gp"), "length in tokens") == 0);
    CHECK(count(many, "set title ") == 12);
    CHECK(many.find("10 of 22 panels are left out: K5 loss, K5 tok_acc, K6 loss") !=
          std::string::npos);
  }
}
