// Configs: whatever text and overrides are read, the answer is ls::Error or a config that is
// written and read back as the same. Of the texts some are files of sweeps, which end in a plan.
#include <algorithm>
#include <map>

#include "core/config/compare.h"
#include "experiments/part.h"
#include "experiments/run.h"
#include "experiments/sweep/plan.h"
#include "tests/fuzz/fuzz.h"
#include "tests/support/paths.h"

namespace ls::fuzz {
namespace {

using experiments::RunConfig;

std::vector<std::string> texts() {
  std::vector<std::string> out;
  for (const char* folder : {"configs/runs", "configs/tasks", "tests/data/broken"}) {
    const std::string path = test::source_dir() + "/" + folder;
    if (std::filesystem::is_directory(path)) {
      for (const std::string& file : test::files_of(path, ".yaml")) {
        out.push_back(read_bytes(file));
      }
    }
  }
  for (const std::string& file : test::files_of(test::source_dir() + "/configs/sweeps", ".yaml")) {
    out.push_back(read_bytes(file));
  }
  LS_CHECK(out.size() > 10, kIo, "{}: too few configs to begin with", test::source_dir());
  return out;
}

/// Names of fields and of components, values at the ends of ranges, marks of YAML.
std::vector<std::string> words() {
  std::vector<std::string> out = {"null",
                                  "true",
                                  "~",
                                  "-1",
                                  "0",
                                  "1",
                                  "1e400",
                                  "nan",
                                  ".inf",
                                  "0x10",
                                  "9223372036854775807",
                                  "4611686018427387904",
                                  "-9223372036854775808",
                                  "18446744073709551616",
                                  "1e-320",
                                  "[",
                                  "]",
                                  "{",
                                  "}",
                                  "[]",
                                  "{}",
                                  ": ",
                                  "- ",
                                  "\n",
                                  "\n  ",
                                  "\n- ",
                                  "\t",
                                  "#",
                                  "'",
                                  "\"",
                                  "&a ",
                                  "*a",
                                  "!!str ",
                                  "!",
                                  "|\n",
                                  ">\n",
                                  "---\n",
                                  "...",
                                  "? ",
                                  "<<: ",
                                  "{repeat: 3, of: [attention]}",
                                  "{repeat: 100000, of: [{repeat: 100000, of: attention}]}",
                                  "extend: ",
                                  "extend: [a, b]\n",
                                  "\xff",
                                  "\xef\xbb\xbf",
                                  "\xc3\xa9",
                                  "name: ",
                                  "[[[[[[[[[[[[[[[["};
  std::string field;
  for (const char* word : {"axes:\n  ", "rates: ", "zip: ", "log_space: [1e-3, 1]", "log_uniform: ",
                           "count: ", "models.*.width: [8, 16]", "base:\n  ", "*", "match: "}) {
    out.emplace_back(word);
  }
  for (const char c :
       describe_config<RunConfig>() + describe_config<experiments::SweepConfig>() + " ") {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_') {
      field += c;
    } else if (!field.empty()) {
      out.push_back(field + (c == ':' ? ": " : ""));
      field.clear();
    }
  }
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

void check_accepted(const RunConfig& config) {
  const std::string yaml = dump_yaml(config), json = dump_json(config);
  const RunConfig again = read_config_text<RunConfig>(yaml, "dumped");
  LS_PROMISE(dump_yaml(again) == yaml);
  LS_PROMISE(config_hash(again) == config_hash(config));
  LS_PROMISE(changed_fields(config, again).empty());
  LS_PROMISE(dump_yaml(read_config_text<RunConfig>(dump_yaml(config, true), "commented")) == yaml);
  LS_PROMISE(dump_yaml(read_config_text<RunConfig>(json, "json")) == yaml);
  experiments::validate_run(config);
  const RunConfig plain = read_config_text<RunConfig>(
      "name: plain\ntask: parity\nmodels: [{layers: [attention], name: plain}]\n");
  changes_text(changed_fields(plain, config));
  for (const experiments::RunModel& model : config.models) {
    LS_PROMISE(experiments::part_hash(config, model) == experiments::part_hash(again, model));
    const auto schedule = experiments::make_schedule(config, model);
    for (const Index n : {Index{0}, Index{1}, config.steps / 2, config.steps - 1}) {
      schedule->lr(n);
    }
  }
}

/// Returns whether it was accepted.
bool run_sweep_case(const std::string& text, const std::vector<std::string>& overrides) {
  try {
    const VariedConfig varied =
        VariedConfig::from_text(text, "fuzz.yaml", overrides, experiments::sweep_keys());
    double runs = 1;
    for (const ConfigAxis& axis : varied.axes()) {
      runs *= static_cast<double>(axis.texts.size());
    }
    if (runs > 200) {
      return false;  // of no interest here, and slow
    }
    experiments::SweepPlan plan = [&] {
      experiments::SweepConfig own;
      read_config(varied.own(), own);
      // What is solved for is measured on models of any size, which is no matter of configs.
      return own.match ? experiments::SweepPlan() : experiments::plan_sweep(varied, text);
    }();
    std::map<std::string, std::string> identity_of;
    for (const experiments::SweepCell& cell : plan.cells) {
      for (const auto* rates : {&cell.choice, &cell.report}) {
        for (const auto& of_rate : *rates) {
          for (const experiments::SweepRun& run : of_rate) {
            LS_PROMISE(run.name.size() <= 120 && folder_name_fault(run.name).empty());
            const auto [at, is_new] = identity_of.emplace(run.name, run.identity);
            LS_PROMISE(is_new || at->second == run.identity);
          }
        }
      }
    }
  } catch (const Error& e) {
    LS_PROMISE(e.kind() == ErrorKind::kConfig || e.kind() == ErrorKind::kIo);
    return false;
  }
  return true;
}

}  // namespace

bool run_case(Rng& rng) {
  static const std::vector<std::string> seeds = texts(), dictionary = words();
  std::string text = pick(rng, seeds);
  if (rng.bernoulli(0.1)) {
    text += pick(rng, seeds);
  }
  if (rng.bernoulli(0.7)) {
    mutate(text, rng, dictionary);
  }
  std::vector<std::string> overrides;
  while (rng.bernoulli(0.3)) {
    std::string path;
    do {
      path += (path.empty() ? "" : ".") + pick(rng, dictionary);
    } while (rng.bernoulli(0.5));
    path.erase(
        std::remove_if(path.begin(), path.end(), [](char c) { return c == ':' || c == ' '; }),
        path.end());
    overrides.push_back(path + "=" + pick(rng, dictionary));
  }
  if (text.find("base") != std::string::npos && rng.bernoulli(0.9)) {
    return run_sweep_case(text, overrides);
  }
  std::optional<RunConfig> config;
  try {
    config = read_config_text<RunConfig>(text, "fuzz.yaml", overrides);
  } catch (const Error& e) {
    LS_PROMISE(e.kind() == ErrorKind::kConfig || e.kind() == ErrorKind::kIo);
    return false;
  }
  try {
    check_accepted(*config);
  } catch (const Error& e) {
    const std::string what = e.what();
    if (e.kind() != ErrorKind::kConfig || what.starts_with("dumped") ||
        what.starts_with("commented") || what.starts_with("json")) {
      throw;
    }
    return false;  // refused by what looks at the whole
  }
  return true;
}

}  // namespace ls::fuzz
