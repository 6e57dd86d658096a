#include "experiments/report/collect.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/io/files.h"
#include "experiments/compare.h"
#include "experiments/csv.h"
#include "experiments/run_file.h"
#include "experiments/sweep/plan.h"
#include "experiments/sweep/results.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;

ReportedRun load_run(const fs::path& folder, const std::string& name) {
  ReportedRun run{.name = name, .path = folder.string()};
  ComparedRun loaded = load_compared(run.path);
  run.result = std::move(loaded.result);
  run.losses = std::move(loaded.losses);
  return run;
}

bool has_result(const fs::path& folder) {
  return has_run_record(folder.string());
}

bool is_sweep(const fs::path& folder) {
  std::error_code error;
  return fs::exists(folder / "sweep.yaml", error) && fs::exists(folder / "results.csv", error);
}

/// Columns of a sweep's results.csv that are axes.
std::vector<std::string> axis_paths(const CsvTable& table) {
  const auto model = std::ranges::find(table.header, "model");
  return table.header.empty() || model == table.header.end()
             ? std::vector<std::string>()
             : std::vector<std::string>(table.header.begin() + 1, model);
}

/// The parts of a `train`, or one part by itself.
ReportGroup load_parts(const fs::path& folder) {
  ReportGroup group{.name = folder.filename().string(), .directory = folder.string()};
  std::vector<fs::path> found;
  std::error_code error;
  if (has_result(folder)) {
    found.push_back(folder);
  }
  for (const auto& entry : fs::recursive_directory_iterator(folder, error)) {
    if (entry.is_directory(error) && has_result(entry.path())) {
      found.push_back(entry.path());
    }
  }
  std::ranges::sort(found);
  for (const fs::path& part : found) {
    const std::string name = fs::relative(part, folder, error).string();
    ReportedRun run = load_run(part, name == "." ? part.filename().string() : name);
    if (!run.result.complete) {
      group.notes.push_back(fmt::format("{}: stopped after update {}", run.name, run.result.steps));
      continue;
    }
    group.runs.push_back(std::move(run));
  }
  return group;
}

void find_groups(const fs::path& folder, std::vector<ReportGroup>& groups) {
  std::error_code error;
  if (is_sweep(folder)) {
    groups.push_back(load_sweep(folder.string()));
    return;
  }
  if (has_result(folder) || fs::exists(folder / "manifest.json", error)) {
    groups.push_back(load_parts(folder));
    return;
  }
  std::vector<fs::path> below;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.is_directory(error) && !entry.path().filename().string().starts_with(".")) {
      below.push_back(entry.path());
    }
  }
  std::ranges::sort(below);
  for (const fs::path& path : below) {
    find_groups(path, groups);
  }
}

std::string fact(const ReportedRun& run, const std::string& name) {
  const auto at = std::ranges::find(run.result.provenance, name, &Provenance::value_type::first);
  return at == run.result.provenance.end() ? "" : at->second;
}

/// What a reader has to know before he compares the runs of a group.
void add_notes(ReportGroup& group) {
  std::map<std::string, Index> commits, devices;
  for (const ReportedRun& run : group.runs) {
    if (!run.finished()) {
      group.notes.push_back(fmt::format("{} failed: {}", run.name, run.error));
      continue;
    }
    ++commits[fact(run, "commit")];
    ++devices[fact(run, "device")];
  }
  for (const auto& [what, values] : {std::pair{"commits", commits}, {"devices", devices}}) {
    std::string text;
    for (const auto& [value, runs] : values) {
      text += fmt::format("{}{} ({} runs)", text.empty() ? "" : ", ", value, runs);
    }
    if (values.size() > 1) {
      group.notes.push_back(fmt::format("mixed {}: {}", what, text));
    }
  }
}

}  // namespace

ReportGroup load_sweep(const std::string& directory) {
  const fs::path folder = directory;
  ReportGroup group{
      .name = folder.filename().string(), .directory = folder.string(), .sweep = true};
  const std::string path = (folder / "results.csv").string();
  const CsvTable table = read_csv(read_file(path), path);
  const std::vector<std::string> paths = axis_paths(table);
  const std::vector<AxisColumn> columns = axis_columns(paths);
  for (const AxisColumn& column : columns) {
    group.axes.push_back(column.name);
  }
  std::set<std::string> seen;
  for (std::size_t r = 0; r < table.rows.size(); ++r) {
    const std::string& name = table.at(r, "run");
    if (!seen.insert(name).second) {
      continue;
    }
    ReportedRun run{.name = name, .path = (folder / name).string()};
    if (table.at(r, "status") == "finished") {
      run = load_run(folder / name, name);
    } else {
      run.error = table.at(r, "error");
      run.result.model = table.at(r, "model");
    }
    run.chosen = table.at(r, "role") == "report" && table.at(r, "chosen") == "yes";
    run.edge = table.at(r, "edge") == "yes";
    run.rate = table.at(r, "rate");
    SweepCell cell;
    for (std::size_t p = 0; p < paths.size(); ++p) {
      cell.values.push_back(table.rows[r][p + 1]);
    }
    for (const AxisColumn& column : columns) {
      run.axes.push_back(column.value(cell));
    }
    group.runs.push_back(std::move(run));
  }
  std::error_code error;
  const std::string text = (folder / "table.txt").string();
  std::istringstream lines(fs::exists(text, error) ? read_file(text) : std::string());
  std::string line;
  while (std::getline(lines, line) && line.starts_with("partial: ")) {
    group.notes.push_back(line);
  }
  return group;
}

const Evaluation* ReportedRun::reported() const {
  return experiments::reported(result);
}

std::vector<ReportGroup> collect_groups(const std::vector<std::string>& directories) {
  std::vector<ReportGroup> groups;
  for (const std::string& directory : directories) {
    const std::size_t before = groups.size();
    fs::path folder = fs::path(directory).lexically_normal();
    find_groups(folder.has_filename() ? folder : folder.parent_path(), groups);
    const bool any = std::any_of(groups.begin() + static_cast<std::ptrdiff_t>(before), groups.end(),
                                 [](const auto& g) { return !g.runs.empty(); });
    LS_CHECK(any, kIo,
             "{}: neither it nor a folder below it holds a finished run of `train` or `sweep`",
             directory);
  }
  Index number = 0;
  for (ReportGroup& group : groups) {
    add_notes(group);
    for (ReportedRun& run : group.runs) {
      run.anchor = fmt::format("run-{}", ++number);
    }
  }
  return groups;
}

}  // namespace ls::experiments
