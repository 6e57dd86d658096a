#pragma once
// What `longscan train` reads. Each component owns its fields; this file lists only the run's own.
#include <optional>
#include <string>
#include <vector>

#include "core/backend/cuda/switches.h"
#include "core/config/limits.h"
#include "core/config/yaml.h"
#include "core/io/files.h"
#include "core/tensor/devices.h"
#include "data/task.h"
#include "experiments/state_config.h"
#include "layers/model.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "parallel/mesh.h"

namespace ls::experiments {

/// What each rank has a shard of.
enum class Shard : std::uint8_t { kNone, kOptimizer, kParameters };

}  // namespace ls::experiments

template <>
struct ls::EnumNames<ls::experiments::Shard> {
  static constexpr std::string_view kKind = "shard";
  static constexpr std::array<std::string_view, 3> kNames = {"none", "optimizer", "parameters"};
};

namespace ls::experiments {

/// Beyond any machine; times the longest sequence it stays within an Index.
inline constexpr double kMaxBatch = 1 << 20, kMaxRanks = 1 << 20;

struct InitConfig {
  std::string from;
  template <class F>
  void fields(F& f) {
    f("from", from,
      {.help = "checkpoint of another run that the weights begin with; empty: random weights",
       .hashed = false,
       .file = true});
  }
};

struct RunModel : layers::ModelConfig {
  std::optional<double> lr;
  InitConfig init;
  template <class F>
  void fields(F& f) {
    layers::ModelConfig::fields(f);
    f("lr", lr, {.help = "peak learning rate of this model; the run's when null", .above = 0});
    f("init", init, {.help = "where its first weights come from"});
  }
};

struct EvalConfig {
  Index every = 0;
  Index batch = 64;
  bool baselines = false;
  Index segment = 4096;
  std::optional<Index> max_tokens, max_memory;
  std::optional<double> max_seconds;
  template <class F>
  void fields(F& f) {
    f("every", every, {.help = "updates between evaluations; 0: only at the end", .min = 0});
    f("baselines", baselines,
      {.help = "the table shows n-grams, nearest examples and the task's own algorithms too, in "
               "brackets, for the first seed",
       .hashed = false});
    f("batch", batch, {.help = "examples per forward pass", .min = 1, .max = kMaxBatch});
    f("segment", segment,
      {.help = "tokens of each example per forward pass; longer ones go through in several, with "
               "their state carried",
       .min = 1});
    f("max_tokens", max_tokens,
      {.help = "most tokens of one test setting: it has fewer examples, which the results say; of "
               "a length that is not one example of so many nothing is run",
       .min = 1});
    f("max_memory", max_memory,
      {.help = "bytes: a test setting that is predicted to need more is not run, which the results "
               "say; the machine's memory, or the GPU's, when null",
       .min = 1,
       .hashed = false});
    f("max_seconds", max_seconds,
      {.help = "the same of the time that a test setting takes", .above = 0, .hashed = false});
  }
};

/// When training ends before `steps`.
struct StopConfig {
  Index patience = 0;
  std::string metric = "loss";
  double by = 0;
  template <class F>
  void fields(F& f) {
    f("patience", patience,
      {.help = "training ends after so many validations in a row that were no better than the best "
               "before them, which the results mark; 0: after `steps` alone",
       .min = 0});
    f("metric", metric, {.help = "what is compared: loss or one of the task's, mean over slices"});
    f("by", by, {.help = "how much better counts", .min = 0});
  }
};

struct CheckpointConfig {
  Index every = 0;
  Index keep = 2;
  std::string best;
  template <class F>
  void fields(F& f) {
    f("every", every, {.help = "updates between checkpoints; 0: only at the end", .min = 0});
    f("keep", keep, {.help = "newest checkpoints that stay on the disk", .min = 1});
    f("best", best,
      {.help =
           "metric of the validation, loss or one of the task's, mean over its slices: the best "
           "checkpoint by it is kept as best.h5; empty: none"});
  }
};

struct ScanConfig {
  Form form = Form::kAuto;
  Index chunk = 0;
  template <class F>
  void fields(F& f) {
    f("form", form, {.help = "form of every scan"});
    f("chunk", chunk, {.help = "tokens per chunk; 0: each scan's default", .min = 0});
  }
};

struct MeshConfig {
  std::optional<Index> data;
  Index sequence = 1;
  std::string strategy = "auto";
  Shard shard = Shard::kNone;
  template <class F>
  void fields(F& f) {
    f("data", data,
      {.help = "ranks over which the rows of a batch are spread; auto: those that `sequence` "
               "leaves",
       .min = 1,
       .max = kMaxRanks,
       .null_word = "auto"});
    f("sequence", sequence,
      {.help = "ranks over which the tokens of each row are spread, with the states and numbers of "
               "one rank to rounding",
       .min = 1,
       .max = kMaxRanks});
    f("strategy", strategy,
      {.help = "how scans are split over the ranks of a sequence: auto takes for each the one that "
               "sends least; `longscan list strategies` has them"});
    const std::string unknown = parallel::strategy_fault(strategy);
    f.check(unknown.empty(), "strategy", unknown);
    f("shard", shard,
      {.help = "what lies on one rank alone and not on all: none, the optimizer's states and the "
               "sums of gradients (each rank updates its share), or parameters and gradients too, "
               "of which a block is whole while it is computed; rounds the norm of the gradient "
               "and sums of its pieces otherwise, and so what clip and accumulate make of them"});
  }
};

struct RunConfig {
  std::string name;
  std::string output = "runs";
  std::string device = "cpu";
  std::vector<Index> seeds = {0};
  Component<data::Task> task;
  std::vector<RunModel> models;
  Index steps = 1000;
  std::optional<Index> horizon;
  Index batch = 32;
  Index accumulate = 1;
  double lr = 1e-3;
  Component<optim::Optimizer> optimizer{"adamw"};
  Component<optim::Schedule> schedule{"constant"};
  double clip = 1.0;
  StateConfig state;
  EvalConfig eval;
  StopConfig stop;
  CheckpointConfig checkpoint;
  ScanConfig scan;
  MeshConfig mesh;
  bool graphs = true;
  bool tf32 = false;
  Index log_every = 10;
  Index prefetch = 4;

  template <class F>
  void fields(F& f) {
    f("name", name, {.help = "name of the run and of its folder", .required = true, .min_size = 1});
    f.check(folder_name_fault(name).empty() && name.find(' ') == std::string::npos, "name",
            "names a folder: no spaces, slashes or control characters, no dot in front, at most "
            "200 bytes");
    f("output", output,
      {.help = "folder that holds the folders of runs", .min_size = 1, .hashed = false});
    f("device", device,
      {.help = "where models run: cpu, cuda (the first GPU, cuda:1 the second), auto (a GPU where "
               "there is one); results differ in rounding alone",
       .hashed = false});
    f.check(is_device_name(device), "device", "is cpu, cuda, cuda:N or auto");
    f("seeds", seeds,
      {.help = "seeds to train with; the table shows mean and spread over them",
       .min = 0,
       .max = kMaxSeed,
       .min_size = 1});
    f("task", task, {.help = "what to learn", .required = true});
    f("models", models,
      {.help = "models to train, one after the other, on the same data",
       .required = true,
       .min_size = 1});
    f("steps", steps, {.help = "number of updates", .min = 1});
    f("horizon", horizon,
      {.help =
           "updates over which the schedule runs, for a run that may be given more steps later; "
           "steps when null",
       .min = 1});
    f.check(!horizon || *horizon >= steps, "horizon", "must be at least steps");
    f("batch", batch, {.help = "sequences per update, over all ranks", .min = 1, .max = kMaxBatch});
    f("accumulate", accumulate, {.help = "pieces in which a batch is computed", .min = 1});
    f.check(batch % accumulate == 0, "accumulate", "must divide batch");
    f("lr", lr, {.help = "peak learning rate", .above = 0});
    f("optimizer", optimizer, {.help = "update rule"});
    f("schedule", schedule, {.help = "how the learning rate changes over the run"});
    const std::string misfit = schedule_misfit();
    f.check(misfit.empty(), "schedule", misfit);
    f("clip", clip, {.help = "largest norm of the gradient; 0: no clipping", .min = 0});
    f("state", state,
      {.help =
           "what rows start from: a mode (zero, gaussian, fitted, passed, tbptt, learned) or the "
           "probability of each"});
    const std::string state_fault = state.fault();
    f.check(state_fault.empty(), "state", state_fault);
    f("eval", eval, {.help = "when and how the models are evaluated"});
    f("stop", stop, {.help = "early stop, by the run's own validations"});
    f.check(stop.patience == 0 || eval.every > 0, "stop",
            "patience counts validations: set eval.every");
    f.check(stop.patience == 0 || !eval.max_seconds || ReadsStored::on(), "stop",
            "validations are compared, and which settings eval.max_seconds leaves out follows from "
            "the clock; limit them by eval.max_tokens or eval.max_memory");
    f("checkpoint", checkpoint, {.help = "when checkpoints are written, and how many stay"});
    f.check(checkpoint.best.empty() || eval.every > 0, "checkpoint",
            "best needs evaluations to choose from: set eval.every");
    f.check(checkpoint.best.empty() || !eval.max_seconds || ReadsStored::on(), "checkpoint",
            "best compares evaluations, and which settings eval.max_seconds leaves out follows "
            "from the clock; limit them by eval.max_tokens or eval.max_memory");
    f("scan", scan, {.help = "how scans are computed; changes no result beyond rounding"});
    f("mesh", mesh, {.help = "what the ranks of a run share", .hashed = false});
    f("graphs", graphs,
      {.help =
           "on a GPU, record a step of each shape, of training and decoding, once and replay it; "
           "changes no result",
       .hashed = false});
    f("tf32", tf32,
      {.help = "on a GPU, matrix products of f32 models round their factors to TF32 (10 bits of "
               "fraction), which is several times faster; scans and attention stay in f32"});
    f("log_every", log_every,
      {.help = "updates between lines of metrics.jsonl", .min = 1, .hashed = false});
    f("prefetch", prefetch,
      {.help = "batches made ahead of the trainer", .min = 1, .max = 1024, .hashed = false});
  }

 private:
  /// Why the parts of the schedule do not fit the run, or "".
  std::string schedule_misfit() const {
    try {
      schedule.make(optim::ScheduleArgs{.peak = lr, .total_steps = horizon.value_or(steps)});
      return "";
    } catch (const Error& e) {
      return e.message();
    }
  }
};

/// @throws Error(Config) where the axes of the mesh are not these ranks
inline parallel::MeshExtents extents_of(const MeshConfig& mesh, int ranks) {
  return parallel::mesh_extents(ranks, mesh.data, mesh.sequence);
}

/// A config that a run has left behind, of this program or an earlier one.
inline RunConfig stored_config(const std::string& text, const std::string& name) {
  const ReadsStored stored;
  return read_config_text<RunConfig>(text, name);
}
inline RunConfig stored_config_file(const std::string& path) {
  const ReadsStored stored;
  return read_config_file<RunConfig>(path);
}

/// Where the models of a run are; from now on products are made as it says.
inline Device& device_of(const RunConfig& config) {
  cuda::tf32_products = config.tf32;
  return device_named(config.device);
}

}  // namespace ls::experiments
