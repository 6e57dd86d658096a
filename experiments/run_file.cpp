#include "experiments/run_file.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>

#include "core/io/files.h"
#include "core/io/h5.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "longscan run";
constexpr std::int64_t kVersion = 1;

void write_text(h5::File& file, const std::string& name, const std::string& text) {
  file.write(name, Tensor::from(std::vector<std::uint8_t>(text.begin(), text.end())));
}

std::string read_text(const h5::File& file, const std::string& name) {
  const std::vector<std::uint8_t> bytes = file.read(name).to_vector<std::uint8_t>();
  return {bytes.begin(), bytes.end()};
}

template <class T>
void write_column(h5::File& file, const std::string& name, const std::vector<T>& values) {
  file.write(name, Tensor::from(values));
}

/// [rows, names], also where one of them is 0.
template <class T>
void write_table(h5::File& file, const std::string& name, const std::vector<T>& values, Index rows,
                 Index names) {
  file.write(name, Tensor::from(values, {rows, names}));
}

/// Names in the order in which they come, and the number of each.
class NameList {
 public:
  std::int64_t number(const std::string& name) {
    const auto at = std::ranges::find(names_, name);
    if (at != names_.end()) {
      return at - names_.begin();
    }
    names_.push_back(name);
    return std::ssize(names_) - 1;
  }
  const std::vector<std::string>& names() const { return names_; }

 private:
  std::vector<std::string> names_;
};

void set_names(h5::File& file, const std::string& name, const std::vector<std::string>& names) {
  file.set_attribute("evaluations", name, names);
}

std::vector<std::string> names_of(const h5::File& file, const std::string& object,
                                  const std::string& name) {
  const h5::Attribute a = file.attribute(object, name);
  const auto* names = std::get_if<std::vector<std::string>>(&a);
  LS_CHECK(names != nullptr, kIo, "{}: attribute '{}' of '{}' is not a list of names", file.path(),
           name, object);
  return *names;
}

void write_history(h5::File& file, const std::vector<Evaluation>& history) {
  NameList splits, slices, metrics, settings;
  std::vector<std::int64_t> step, split, slice, length, examples, left_out, labels;
  std::vector<double> seconds;
  Json not_run = Json::array();
  std::vector<std::int64_t> row_of, from, to, range_labels;
  std::vector<double> loss, accuracy;
  std::vector<const SliceResult*> rows;
  for (const Evaluation& e : history) {
    for (const SliceResult& s : e.slices) {
      step.push_back(e.step);
      split.push_back(splits.number(std::string(enum_name(e.split))));
      seconds.push_back(e.seconds);
      slice.push_back(slices.number(s.name));
      length.push_back(s.length);
      examples.push_back(s.examples);
      left_out.push_back(s.left_out);
      labels.push_back(s.labels);
      not_run.push_back(s.not_run);
      for (const auto& [name, value] : s.metrics.values) {
        metrics.number(name);
      }
      for (const auto& [name, value] : s.setting) {
        settings.number(name);
      }
      for (const PositionRange& p : s.positions) {
        row_of.push_back(std::ssize(rows));
        from.push_back(p.from);
        to.push_back(p.to);
        range_labels.push_back(p.labels);
        loss.push_back(p.loss);
        accuracy.push_back(p.accuracy);
      }
      rows.push_back(&s);
    }
  }
  const Index n = std::ssize(rows), m = std::ssize(metrics.names()),
              k = std::ssize(settings.names());
  std::vector<double> values(static_cast<std::size_t>(n * m), NAN);
  std::vector<std::uint8_t> measured(values.size());
  std::vector<std::int64_t> set(static_cast<std::size_t>(n * k), -1);
  for (Index r = 0; r < n; ++r) {
    const SliceResult& s = *rows[static_cast<std::size_t>(r)];
    for (const auto& [name, value] : s.metrics.values) {
      const auto at = static_cast<std::size_t>(r * m + metrics.number(name));
      values[at] = value;
      measured[at] = 1;
    }
    for (const auto& [name, value] : s.setting) {
      set[static_cast<std::size_t>(r * k + settings.number(name))] = value;
    }
  }
  file.create_group("evaluations");
  set_names(file, "splits", splits.names());
  set_names(file, "slices", slices.names());
  set_names(file, "metrics", metrics.names());
  set_names(file, "settings", settings.names());
  write_column(file, "evaluations/step", step);
  write_column(file, "evaluations/split", split);
  write_column(file, "evaluations/seconds", seconds);
  write_column(file, "evaluations/slice", slice);
  write_column(file, "evaluations/length", length);
  write_column(file, "evaluations/examples", examples);
  write_column(file, "evaluations/left_out", left_out);
  write_column(file, "evaluations/labels", labels);
  write_table(file, "evaluations/metrics", values, n, m);
  write_table(file, "evaluations/measured", measured, n, m);
  write_table(file, "evaluations/settings", set, n, k);
  write_text(file, "evaluations/not_run", not_run.dump());
  write_column(file, "positions/row", row_of);
  write_column(file, "positions/from", from);
  write_column(file, "positions/to", to);
  write_column(file, "positions/labels", range_labels);
  write_column(file, "positions/loss", loss);
  write_column(file, "positions/accuracy", accuracy);
}

template <class T>
std::vector<T> read_column(const h5::File& file, const std::string& name, Index rows) {
  const Tensor t = file.read(name);
  LS_CHECK(t.dtype() == dtype_of_v<T> && t.numel() == rows, kIo,
           "{}: '{}' is {}, {} [{}] is expected", file.path(), name, t.describe(),
           enum_name(dtype_of_v<T>), rows);
  return t.to_vector<T>();
}

const std::string& name_at(const h5::File& file, const std::vector<std::string>& names,
                           std::int64_t number) {
  LS_CHECK(0 <= number && number < std::ssize(names), kIo,
           "{}: a name of evaluations is number {} of {}", file.path(), number, names.size());
  return names[static_cast<std::size_t>(number)];
}

std::vector<Evaluation> read_history(const h5::File& file) {
  const auto names = [&](const char* list) { return names_of(file, "evaluations", list); };
  const std::vector<std::string> splits = names("splits"), slices = names("slices"),
                                 metrics = names("metrics"), settings = names("settings");
  const Index n = file.info("evaluations/step").shape.numel();
  const auto column = [&](const char* name) {
    return read_column<std::int64_t>(file, std::string("evaluations/") + name, n);
  };
  const auto step = column("step"), split = column("split"), slice = column("slice"),
             length = column("length"), examples = column("examples"),
             left_out = column("left_out"), labels = column("labels");
  const auto seconds = read_column<double>(file, "evaluations/seconds", n);
  const auto values = read_column<double>(file, "evaluations/metrics", n * std::ssize(metrics));
  const auto measured =
      read_column<std::uint8_t>(file, "evaluations/measured", n * std::ssize(metrics));
  const auto set =
      read_column<std::int64_t>(file, "evaluations/settings", n * std::ssize(settings));
  const Json not_run = Json::parse(read_text(file, "evaluations/not_run"));
  std::vector<Evaluation> history;
  std::vector<SliceResult*> rows;
  // Places in `rows` are of lists that no longer grow.
  std::vector<std::pair<std::size_t, std::size_t>> places;
  for (std::size_t r = 0; r < static_cast<std::size_t>(n); ++r) {
    const auto kind = parse_enum<data::Split>(name_at(file, splits, split[r]));
    if (history.empty() || history.back().step != step[r] || history.back().split != kind) {
      history.push_back({.step = step[r], .split = kind, .slices = {}, .seconds = seconds[r]});
    }
    SliceResult& s = history.back().slices.emplace_back();
    places.emplace_back(history.size() - 1, history.back().slices.size() - 1);
    s.name = name_at(file, slices, slice[r]);
    s.length = length[r];
    s.examples = examples[r];
    s.left_out = left_out[r];
    s.labels = labels[r];
    s.not_run = not_run.at(r).get<std::string>();
    for (std::size_t m = 0; m < metrics.size(); ++m) {
      if (const std::size_t at = r * metrics.size() + m; measured[at] != 0) {
        s.metrics.values.emplace_back(metrics[m], values[at]);
      }
    }
    for (std::size_t k = 0; k < settings.size(); ++k) {
      if (const std::int64_t value = set[r * settings.size() + k]; value >= 0) {
        s.setting.emplace_back(settings[k], value);
      }
    }
  }
  for (const auto& [e, s] : places) {
    rows.push_back(&history[e].slices[s]);
  }
  const Index ranges = file.info("positions/row").shape.numel();
  const auto position = [&](const char* name) {
    return read_column<std::int64_t>(file, std::string("positions/") + name, ranges);
  };
  const auto row = position("row"), from = position("from"), to = position("to"),
             range_labels = position("labels");
  const auto loss = read_column<double>(file, "positions/loss", ranges);
  const auto accuracy = read_column<double>(file, "positions/accuracy", ranges);
  for (std::size_t i = 0; i < row.size(); ++i) {
    LS_CHECK(0 <= row[i] && row[i] < n, kIo, "{}: positions of row {}, there are {}", file.path(),
             row[i], n);
    rows[static_cast<std::size_t>(row[i])]->positions.push_back({.from = from[i],
                                                                 .to = to[i],
                                                                 .labels = range_labels[i],
                                                                 .loss = loss[i],
                                                                 .accuracy = accuracy[i]});
  }
  return history;
}

/// Numbers and names are attributes, other facts texts.
void write_facts(h5::File& file, const Json& facts) {
  for (const auto& [name, value] : facts.items()) {
    const bool names = value.is_array() && !value.empty() &&
                       std::ranges::all_of(value, [](const Json& v) { return v.is_string(); });
    if (value.is_boolean()) {
      file.set_attribute("/", name, static_cast<std::int64_t>(value.get<bool>()));
    } else if (value.is_number_integer()) {
      file.set_attribute("/", name, value.get<std::int64_t>());
    } else if (value.is_number()) {
      file.set_attribute("/", name, value.get<double>());
    } else if (value.is_string()) {
      file.set_attribute("/", name, value.get<std::string>());
    } else if (names) {
      file.set_attribute("/", name, value.get<std::vector<std::string>>());
    } else if (name == "provenance") {
      for (const auto& [fact, text] : value.items()) {
        file.set_attribute("/", "provenance." + fact, text.get<std::string>());
      }
      std::vector<std::string> order;
      for (const auto& [fact, text] : value.items()) {
        order.push_back(fact);
      }
      file.set_attribute("/", "provenance", order);
    } else {
      write_text(file, "text/" + name, value.dump());
    }
  }
}

Json read_facts(const h5::File& file) {
  Json facts = Json::object();
  for (const std::string& name : file.attributes("/")) {
    if (name.starts_with("provenance.")) {
      continue;
    }
    std::visit([&](const auto& value) { facts[name] = value; }, file.attribute("/", name));
  }
  Json provenance = Json::object();
  for (const std::string& fact : names_of(file, "/", "provenance")) {
    provenance[fact] = file.text("/", "provenance." + fact);
  }
  facts["provenance"] = provenance;
  for (const char* flag : {"complete", "stopped_early"}) {
    facts[flag] = file.integer("/", flag) != 0;
  }
  for (const std::string& name : file.children("text")) {
    const std::string key = name.substr(name.rfind('/') + 1);
    facts[key] = Json::parse(read_text(file, "text/" + key));
  }
  return facts;
}

std::string old_result(const std::string& folder) {
  return folder + "/result.json";
}

/// What earlier programs wrote.
RunRecord read_old(const std::string& folder) {
  const std::string path = old_result(folder), metrics = folder + "/metrics.jsonl";
  RunRecord out{.result = RunResult::from_json(read_file(path), path), .log = {}};
  std::istringstream lines(fs::exists(metrics) ? read_file(metrics) : std::string());
  for (std::string line; std::getline(lines, line);) {
    if (const std::optional<LogLine> l = LogLine::from_json(line)) {
      out.log.push_back(*l);
    }
  }
  return out;
}

}  // namespace

std::string run_file(const std::string& folder) {
  return folder + "/run.h5";
}

bool has_run_record(const std::string& folder) {
  std::error_code error;
  return fs::exists(run_file(folder), error) || fs::exists(old_result(folder), error);
}

void write_log(h5::File& file, const std::vector<LogLine>& log) {
  std::map<std::string, std::vector<double>> columns;
  LogLine none;
  none.for_each_column([&](const char* name, const double&) { columns[name]; });
  for (LogLine line : log) {
    line.for_each_column([&](const char* name, double& value) { columns[name].push_back(value); });
  }
  for (const auto& [name, values] : columns) {
    write_column(file, "log/" + name, values);
  }
}

std::vector<LogLine> read_log(const h5::File& file) {
  if (!file.exists("log")) {
    return {};
  }
  std::vector<LogLine> log(static_cast<std::size_t>(file.info("log/step").shape.numel()));
  LogLine none;
  none.for_each_column([&](const char* name, double&) {
    const auto values = read_column<double>(file, std::string("log/") + name, std::ssize(log));
    for (std::size_t i = 0; i < log.size(); ++i) {
      log[i].for_each_column([&](const char* other, double& value) {
        value = std::string_view(other) == name ? values[i] : value;
      });
    }
  });
  return log;
}

void write_run_record(const std::string& folder, const RunResult& result,
                      const std::vector<LogLine>& log) {
  const std::string path = run_file(folder), temporary = path + ".tmp";
  const ErrorContext context("writing the record of a run");
  try {
    h5::File file = h5::File::create(temporary);
    file.set_attribute("/", "format", std::string(kFormat));
    file.set_attribute("/", "version", kVersion);
    write_facts(file, result.facts());
    write_log(file, log);
    write_history(file, result.history);
    file.close();
    LS_CHECK(std::rename(temporary.c_str(), path.c_str()) == 0, kIo, "{} cannot be renamed: {}",
             temporary, write_failure(errno));
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
  sync_directory(folder);
}

RunRecord read_run_record(const std::string& folder) {
  const std::string path = run_file(folder);
  std::error_code error;
  if (!fs::exists(path, error) && fs::exists(old_result(folder), error)) {
    return read_old(folder);
  }
  // HDF5 may crash on a damaged file: what has no seal never reaches it.
  const std::string fault = h5::damage(path);
  LS_CHECK(fault.empty(), kIo, "{}; move it away and use --resume, which makes it again", fault);
  try {
    const h5::File file = h5::File::open(path);
    LS_CHECK(file.has_attribute("/", "format") && file.text("/", "format") == kFormat, kIo,
             "is no record of a run");
    LS_CHECK(file.integer("/", "version") == kVersion, kIo,
             "was written in version {}, this program reads {}", file.integer("/", "version"),
             kVersion);
    RunRecord out{.result = RunResult::from_facts(read_facts(file)), .log = read_log(file)};
    out.result.history = read_history(file);
    return out;
  } catch (const std::exception& e) {
    LS_FAIL(kIo,
            "{}: is not the record of a run of this program ({}); move it away and use --resume, "
            "which makes it again from the checkpoint",
            path, e.what());
  }
}

}  // namespace ls::experiments
