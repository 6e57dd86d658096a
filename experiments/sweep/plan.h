#pragma once
// The runs of a sweep. A cell is one model under one value of each axis; a run is a cell with a
// rate and a seed: a RunConfig of one model and one seed, trained as a part of any run is.
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "experiments/run_config.h"
#include "experiments/sweep/config.h"

namespace ls::experiments {

struct SweepRun {
  RunConfig config;  ///< of one model and one seed
  std::size_t cell = 0;
  Index rate = -1;      ///< number of its rate; -1: the base's
  bool choice = false;  ///< on a seed that rates are chosen on
  std::string name;     ///< of its folder, where no other has it
  std::string identity;
  Index seed() const { return config.seeds.front(); }
};

struct SweepCell {
  std::string model;
  std::vector<std::string> values;  ///< by axis path; "" where it is another model's
  std::vector<RunConfig> configs;   ///< by rate, one without rates; of one model
  /// Of each rate the runs on the choice seeds, and those on the others.
  std::vector<std::vector<SweepRun>> choice, report;
};

struct SweepPlan {
  SweepConfig config;
  std::string text;                 ///< of the file
  std::vector<std::string> paths;   ///< of the axes, rates left out
  std::vector<std::string> rates;   ///< as they are written, in the order of the file
  std::vector<double> rate_values;  ///< the same as numbers
  std::vector<SweepCell> cells;

  std::string directory() const { return config.output + "/" + config.name; }
  bool chooses() const { return rates.size() > 1; }
  /// Runs that are trained, reports of one rate a cell.
  Index size() const;
};

/// The axes as tables and figures show them: one column for paths that differ in the model alone.
struct AxisColumn {
  std::string name;                ///< without "models.N."
  std::vector<std::size_t> paths;  ///< numbers in SweepPlan::paths
  /// "" where none of them is the cell's model's.
  const std::string& value(const SweepCell& cell) const;
};
std::vector<AxisColumn> axis_columns(const std::vector<std::string>& paths);

/// Reads a sweep and the config of each run.
/// @throws Error(Io, Config) naming file, line and path of what is wrong
SweepPlan plan_sweep(const VariedConfig& varied, const std::string& text);
/// The keys that VariedConfig is to read.
const VariedConfig::Keys& sweep_keys();

/// Builds the task and the model of each cell, as training would.
/// @throws Error(Config) naming the cell
void rehearse(const SweepPlan& plan);

}  // namespace ls::experiments
