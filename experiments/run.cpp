#include "experiments/run.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <system_error>

#include "autograd/tape.h"
#include "core/base/log.h"
#include "core/base/parallel_for.h"
#include "core/io/files.h"
#include "core/tensor/devices.h"
#include "experiments/baselines.h"
#include "experiments/checkpoint.h"
#include "experiments/evaluate.h"
#include "experiments/footprint.h"
#include "experiments/manifest.h"
#include "experiments/model_io.h"
#include "experiments/part.h"
#include "experiments/progress.h"
#include "experiments/provenance.h"
#include "experiments/report.h"
#include "experiments/run_file.h"
#include "experiments/run_lock.h"
#include "experiments/stop.h"
#include "experiments/trainer.h"
#include "parallel/grad_sync.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;

/// One model and seed, and its folder OUTPUT/NAME/MODEL/seedN.
struct Part {
  std::size_t model;
  std::uint64_t seed;
  std::string label;
  std::string folder;                   ///< below the run's: MODEL/seedN
  std::string directory;                ///< the same with the run's
  std::string missing = "not started";  ///< why there is no result; "" when there is
};

std::vector<Part> parts_of(const RunConfig& config) {
  std::vector<Part> parts;
  const std::vector<std::string> labels = model_labels(config);
  for (std::size_t m = 0; m < labels.size(); ++m) {
    for (const Index seed : config.seeds) {
      const std::string folder = fmt::format("{}/seed{}", labels[m], seed);
      parts.push_back({m, static_cast<std::uint64_t>(seed), labels[m], folder,
                       fmt::format("{}/{}/{}", config.output, config.name, folder)});
    }
  }
  return parts;
}

/// The result of a part that an earlier sitting finished, perhaps after fewer updates than are
/// asked for now. Rank 0 reads, and knows the data.
std::optional<RunResult> finished_part(const RunConfig& config, const Part& part,
                                       const std::vector<data::DataIdentity>& data,
                                       const ResumeOptions& options, Communicator& comm) {
  const std::string path = run_file(part.directory);
  // Every rank reads what rank 0 has seen.
  const Index there = comm.rank() == 0 && has_run_record(part.directory);
  if (comm.reduce_value(there, ReduceOp::kMax) == 0) {
    return std::nullopt;
  }
  RunResult r = read_run_record(part.directory).result;
  if (!r.complete) {
    return std::nullopt;
  }
  check_same_numbers({.path = path,
                      .config = r.config,
                      .model = r.model,
                      .part_hash = r.part_hash,
                      .step = r.steps},
                     config, config.models[part.model]);
  if (comm.rank() == 0 && !options.allow_changed_data) {
    check_same_data(path, r.data, data);
  }
  return r;
}

/// Runs f; its errors begin with the place in the config.
template <class F>
auto located(const Where& where, const std::string& path, F&& f) {
  try {
    return f();
  } catch (const Error& e) {
    throw Error(e.kind(), where(path) + ": " + path + ": " + e.what(), e.where());
  }
}

/// Builds everything that the run will build, and sends one token through each model. The data of
/// each model, on rank 0.
std::vector<std::vector<data::DataIdentity>> rehearse(const RunConfig& config, const Where& where,
                                                      Existing existing, Communicator& comm) {
  const auto seed = static_cast<std::uint64_t>(config.seeds.front());
  const parallel::MeshExtents mesh =
      located(where, "mesh", [&] { return extents_of(config.mesh, comm.size()); });
  const std::unique_ptr<data::Task> task = located(where, "task", [&] {
    std::unique_ptr<data::Task> made =
        data::make_task(config.task, {.seed = seed, .stream = config.state.streams()});
    check_evaluation(*made, config);
    return made;
  });
  const layers::ModelInterface io = model_interface(*task);
  const ag::NoGrad no_grad;
  std::vector<std::vector<data::DataIdentity>> data;
  for (std::size_t m = 0; m < config.models.size(); ++m) {
    const auto model = located(where, "models." + std::to_string(m), [&] {
      check_memory(config, config.models[m], *task, mesh);
      auto made = make_model(config, config.models[m], io, seed);
      layers::Model& model = *made;
      const std::string& from = config.models[m].init.from;
      // A part that goes on needs its file no longer.
      const bool looked_at = existing != Existing::kResume || fs::exists(from);
      if (!from.empty() && looked_at && comm.rank() == 0) {
        begin_from(from, model);
      }
      layers::SeqContext seq(1, 1, sequence_options(config.scan));
      layers::ModelInput token;
      if (io.vocab_in > 0) {
        token.tokens = Tensor::zeros({1, 1}, DType::kI64);
      } else {
        token.vectors = Tensor::zeros({1, 1, io.vector_width}, DType::kF32);
      }
      model.hidden(token, seq);
      data.push_back(comm.rank() == 0 ? part_data(*task, config.models[m])
                                      : std::vector<data::DataIdentity>());
      return made;
    });
    located(where, "state", [&] { check_states(config, *model, *task, mesh.data); });
  }
  return data;
}

/// Makes room for a part, as `existing` says.
void prepare(const Part& part, Existing existing, Manifest& manifest) {
  if (existing == Existing::kFresh) {
    manifest.remove(part.folder);
  }
  const bool there = fs::exists(part.directory + "/metrics.jsonl") ||
                     has_run_record(part.directory) ||
                     !list_checkpoints(part.directory + "/checkpoints").empty();
  LS_CHECK(
      existing == Existing::kResume || !there, kConfig,
      "{} already holds a run; go on with --resume, or choose another name (--fresh deletes what "
      "is there)",
      part.directory);
  manifest.add(part.folder);
}

/// "partial: 2 of 3 results; m seed 2: stopped after update 20 of 60".
std::string missing_text(const std::vector<Part>& parts) {
  constexpr std::size_t kMostNamed = 8;
  std::size_t missing = 0;
  std::string text;
  for (const Part& part : parts) {
    if (!part.missing.empty() && ++missing <= kMostNamed) {
      text += fmt::format("; {} seed {}: {}", part.label, part.seed, part.missing);
    }
  }
  if (missing > kMostNamed) {
    text += fmt::format("; and {} more", missing - kMostNamed);
  }
  return missing == 0 ? ""
                      : fmt::format("partial: {} of {} results{}\n", parts.size() - missing,
                                    parts.size(), text);
}

/// Trains the parts one after the other.
class Sitting {
 public:
  Sitting(const RunConfig& config, const RunOptions& options, Communicator& comm,
          std::vector<std::vector<data::DataIdentity>> data, RunOutcome& out)
      : config_(config),
        options_(options),
        comm_(comm),
        data_(std::move(data)),
        out_(out),
        parts_(parts_of(config)) {}

  std::vector<Part>& parts() { return parts_; }

  void run() {
    for (Part& part : parts_) {
      if (stop_signal(comm_) != 0) {
        out_.interrupted = true;
        return;
      }
      try {
        std::optional<RunResult> result = result_of(part);
        if (!result->complete) {
          part.missing = fmt::format("stopped after update {} of {}", result->steps, config_.steps);
          out_.interrupted = true;
          write_table();
          return;
        }
        part.missing.clear();
        out_.results.push_back(std::move(*result));
      } catch (const Error& e) {
        part.missing = e.message().substr(0, e.message().find('\n'));
        if (e.kind() != ErrorKind::kNumeric) {
          try_to_write_table();
          throw;
        }
        out_.failures.emplace_back(e.what());
      }
      write_table();
    }
    if (config_.eval.baselines && comm_.rank() == 0 && !out_.results.empty()) {
      const auto seed = static_cast<std::uint64_t>(config_.seeds.front());
      std::ranges::move(baseline_results(config_, seed), std::back_inserter(out_.results));
      write_table();
    }
    if (comm_.rank() == 0 && out_.failures.empty()) {
      out_.figures = results_figures(out_.results, out_.directory);
    }
  }

 private:
  RunResult result_of(const Part& part) {
    const bool resume = options_.existing == Existing::kResume;
    std::optional<RunResult> earlier;
    if (resume) {
      earlier = finished_part(config_, part, data_[part.model], options_.resume, comm_);
    }
    if (earlier && earlier->steps == config_.steps) {
      return std::move(*earlier);
    }
    Trainer trainer(config_, part.model, part.seed, part.directory, comm_, device_of(config_));
    if (resume) {
      trainer.resume(options_.resume, earlier);
    }
    return trainer.run();
  }
  /// After an error, which is the one to be told.
  void try_to_write_table() {
    try {
      write_table();
    } catch (const Error& e) {
      log_warn(e.message());
    }
  }
  void write_table() {
    if (comm_.rank() != 0 || out_.results.empty()) {
      return;
    }
    const std::string missing = missing_text(parts_);
    replace_file(out_.directory + "/table.txt", missing + results_table(out_.results));
    out_.table = missing + results_table(out_.results, terminal_columns());
  }

  const RunConfig& config_;
  const RunOptions& options_;
  Communicator& comm_;
  std::vector<std::vector<data::DataIdentity>> data_;  // by model
  RunOutcome& out_;
  std::vector<Part> parts_;
};

}  // namespace

std::vector<std::string> model_labels(const RunConfig& config) {
  std::vector<std::string> labels;
  for (const RunModel& m : config.models) {
    labels.push_back(layers::model_label(m));
  }
  return labels;
}

namespace {
constexpr const char* kLogs = "logs";

/// The path of this rank's log, which begins with what the rank is.
std::string rank_log(const std::string& directory, Communicator& comm) {
  const std::string folder = directory + "/" + kLogs;
  create_directories(folder);
  std::string path = fmt::format("{}/rank_{:04}.log", folder, comm.rank());
  append_line(path, fmt::format("{}: rank {} of {} on {}, process {}, {} threads", utc_now(),
                                comm.rank(), comm.size(), host_name(), getpid(), num_threads()));
  return path;
}

/// In the run's folder, since a launcher may end the ranks before what they print is seen.
void note_failure(const std::string& directory, Communicator& comm, const std::string& what) {
  try {
    append_line(directory + "/failures.log",
                fmt::format("{}: rank {} of {} on {}: {}", utc_now(), comm.rank(), comm.size(),
                            host_name(), what));
  } catch (const Error& e) {
    log_warn(e.message());  // the failure itself is the one to be told
  }
}

/// Why a model's folder cannot have this name: besides what holds for every folder, files of the
/// run itself lie beside it.
std::string model_name_fault(const std::string& name) {
  if (name == kLogs) {
    return "has this name for the logs of its ranks";
  }
  for (const std::string_view suffix : {".txt", ".svg", ".json", ".log", ".tmp"}) {
    if (name.ends_with(suffix)) {
      return fmt::format("ends in {} like a file of the run", suffix);
    }
  }
  return folder_name_fault(name);
}
}  // namespace

void validate_run(const RunConfig& config) {
  const std::vector<std::string> labels = model_labels(config);
  std::set<std::string> seen;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    LS_CHECK(seen.insert(labels[i]).second, kConfig,
             "models.{} is named '{}' like an earlier model; give it a name of its own", i,
             labels[i]);
    const std::string fault = model_name_fault(labels[i]);
    LS_CHECK(
        fault.empty(), kConfig, "models.{}.name: {} names a folder of the run, but {}", i,
        nlohmann::json(labels[i]).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace),
        fault);
  }
  const std::set<Index> seeds(config.seeds.begin(), config.seeds.end());
  LS_CHECK(seeds.size() == config.seeds.size(), kConfig, "seeds: a seed is listed twice");
}

RunOutcome run_all(const RunConfig& config, const Where& where, const RunOptions& options,
                   Communicator& comm) {
  validate_run(config);
  device_of(config);  // before anything is written
  RunOutcome out;
  out.directory = config.output + "/" + config.name;
  Sitting sitting(config, options, comm, rehearse(config, where, options.existing, comm), out);
  if (comm.size() > 1) {
    std::string text = dump_yaml(config);
    const parallel::RawBuffer buffer{text.data(), std::ssize(text), DType::kU8};
    parallel::check_same_across_ranks(comm, parallel::hash_buffers({&buffer, 1}),
                                      "the configuration");
  }
  std::optional<RunLock> lock;
  if (comm.rank() == 0) {
    create_directories(out.directory);
    lock.emplace(out.directory);
    Manifest manifest(out.directory);
    for (const Part& part : sitting.parts()) {
      prepare(part, options.existing, manifest);
    }
  }
  comm.barrier();
  std::optional<LogFile> log_file;
  if (comm.size() > 1) {
    log_file.emplace(rank_log(out.directory, comm));
  }
  try {
    sitting.run();
  } catch (const std::exception& e) {
    note_failure(out.directory, comm, e.what());
    throw;
  }
  return out;
}

}  // namespace ls::experiments
