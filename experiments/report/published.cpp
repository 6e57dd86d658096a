#include "experiments/report/published.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>

#include "core/base/error.h"
#include "core/io/files.h"
#include "experiments/csv.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;

constexpr const char* kColumns[] = {"source", "task", "variant", "slices", "model",   "mixer",
                                    "x",      "at",   "metric",  "value",  "reading", "error"};

double number(const CsvTable& table, std::size_t row, const std::string& column,
              const std::string& path) {
  const std::string& text = table.at(row, column);
  double value = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  LS_CHECK(parsed.ec == std::errc() && parsed.ptr == text.data() + text.size(), kIo,
           "{}:{}: {}: '{}' is no number", path, table.lines[row], column, text);
  return value;
}

void read_file_of_points(const std::string& path, std::vector<PublishedPoint>& points) {
  const CsvTable table = read_csv(read_file(path), path);
  for (const char* column : kColumns) {
    LS_CHECK(table.has(column), kIo, "{}: has no column '{}'; a file of published points has {}",
             path, column, fmt::join(kColumns, ", "));
  }
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    const auto text = [&](const char* column) { return table.at(r, column); };
    PublishedPoint p{.source = text("source"),
                     .task = text("task"),
                     .variant = text("variant"),
                     .slices = text("slices"),
                     .model = text("model"),
                     .mixer = text("mixer"),
                     .x = text("x"),
                     .at = number(table, r, "at", path),
                     .metric = text("metric"),
                     .value = number(table, r, "value", path),
                     .reading = text("reading"),
                     .error = number(table, r, "error", path)};
    LS_CHECK(p.reading == "table" || p.reading == "figure", kIo,
             "{}:{}: reading: '{}', expected table or figure", path, table.lines[r], p.reading);
    LS_CHECK(!p.source.empty(), kIo, "{}:{}: source: a published point names where it stands", path,
             table.lines[r]);
    points.push_back(std::move(p));
  }
}

}  // namespace

std::vector<PublishedPoint> read_published(const std::string& folder) {
  std::vector<std::string> paths;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.path().extension() == ".csv") {
      paths.push_back(entry.path().string());
    }
  }
  LS_CHECK(!error, kIo, "{}: cannot be listed: {}", folder, error.message());
  std::ranges::sort(paths);
  std::vector<PublishedPoint> points;
  for (const std::string& path : paths) {
    read_file_of_points(path, points);
  }
  return points;
}

}  // namespace ls::experiments
