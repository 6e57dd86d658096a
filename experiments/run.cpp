#include "experiments/run.h"

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <system_error>

#include "autograd/tape.h"
#include "core/io/files.h"
#include "experiments/model_io.h"
#include "experiments/report.h"
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
  std::string directory;
};

std::vector<Part> parts_of(const RunConfig& config) {
  std::vector<Part> parts;
  const std::vector<std::string> labels = model_labels(config);
  for (std::size_t m = 0; m < labels.size(); ++m) {
    for (const Index seed : config.seeds) {
      parts.push_back(
          {m, static_cast<std::uint64_t>(seed),
           fmt::format("{}/{}/{}/seed{}", config.output, config.name, labels[m], seed)});
    }
  }
  return parts;
}

/// The result of a part that an earlier sitting finished. Rank 0 reads.
std::optional<RunResult> finished_part(const RunConfig& config, const std::string& directory,
                                       Communicator& comm) {
  const std::string path = directory + "/result.json";
  std::string text;
  if (comm.rank() == 0 && fs::exists(path)) {
    text = read_file(path);
  }
  parallel::broadcast_text(comm, text);
  if (text.empty()) {
    return std::nullopt;
  }
  RunResult r = RunResult::from_json(text, path);
  LS_CHECK(r.config_hash == config_hash(config), kConfig,
           "{} was written by another configuration (hash {}, this one is {}); restore the config "
           "or start over with --fresh",
           path, r.config_hash, config_hash(config));
  return r.complete ? std::optional(std::move(r)) : std::nullopt;
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

/// Builds everything that the run will build, and sends one token through each model.
void rehearse(const RunConfig& config, const Where& where) {
  const auto seed = static_cast<std::uint64_t>(config.seeds.front());
  const std::unique_ptr<data::Task> task = located(where, "task", [&] {
    return data::make_task(config.task,
                           {.seed = seed, .stream = config.state == StateMode::kCarry});
  });
  const layers::ModelInterface io = model_interface(*task);
  const ag::NoGrad no_grad;
  for (std::size_t m = 0; m < config.models.size(); ++m) {
    located(where, "models." + std::to_string(m), [&] {
      layers::Model model(config.models[m], io, seed);
      layers::SeqContext seq(1, 1, sequence_options(config.scan));
      layers::ModelInput token;
      if (io.vocab_in > 0) {
        token.tokens = Tensor::zeros({1, 1}, DType::kI64);
      } else {
        token.vectors = Tensor::zeros({1, 1, io.vector_width}, DType::kF32);
      }
      model.hidden(token, seq);
    });
  }
}

/// Makes room for a part, as `existing` says.
void prepare(const std::string& directory, Existing existing) {
  if (existing == Existing::kFresh) {
    std::error_code error;
    fs::remove_all(directory, error);
    LS_CHECK(!error, kIo,
             "{}: cannot be deleted to start over: {}; delete it as the user who made it, or "
             "choose another name or output folder",
             directory, error.message());
  }
  LS_CHECK(existing != Existing::kRefuse || !fs::exists(directory + "/metrics.jsonl"), kConfig,
           "{} already holds a run; go on with --resume, start over with --fresh, or choose "
           "another name",
           directory);
}

}  // namespace

std::vector<std::string> model_labels(const RunConfig& config) {
  std::vector<std::string> labels;
  for (const RunModel& m : config.models) {
    labels.push_back(layers::model_label(m));
  }
  return labels;
}

void validate_run(const RunConfig& config) {
  const std::vector<std::string> labels = model_labels(config);
  std::set<std::string> seen;
  for (std::size_t i = 0; i < labels.size(); ++i) {
    LS_CHECK(seen.insert(labels[i]).second, kConfig,
             "models.{} is named '{}' like an earlier model; give it a name of its own", i,
             labels[i]);
    LS_CHECK(labels[i].find('/') == std::string::npos, kConfig,
             "models.{}.name: '{}' names a folder: no slashes", i, labels[i]);
  }
  const std::set<Index> seeds(config.seeds.begin(), config.seeds.end());
  LS_CHECK(seeds.size() == config.seeds.size(), kConfig, "seeds: a seed is listed twice");
}

RunOutcome run_all(const RunConfig& config, const Where& where, Existing existing,
                   Communicator& comm) {
  validate_run(config);
  rehearse(config, where);
  RunOutcome out;
  out.directory = config.output + "/" + config.name;
  const bool root = comm.rank() == 0;
  if (comm.size() > 1) {
    std::string text = dump_yaml(config);
    const parallel::RawBuffer buffer{text.data(), std::ssize(text), DType::kU8};
    parallel::check_same_across_ranks(comm, parallel::hash_buffers({&buffer, 1}),
                                      "the configuration");
  }
  const std::vector<Part> parts = parts_of(config);
  std::optional<RunLock> lock;
  if (root) {
    create_directories(out.directory);
    lock.emplace(out.directory);
    for (const Part& part : parts) {
      prepare(part.directory, existing);
    }
  }
  comm.barrier();
  for (const Part& part : parts) {
    const bool resume = existing == Existing::kResume;
    std::optional<RunResult> done;
    if (resume) {
      done = finished_part(config, part.directory, comm);
    }
    if (!done) {
      if (stop_signal(comm) != 0) {
        out.interrupted = true;
        return out;
      }
      Trainer trainer(config, part.model, part.seed, part.directory, comm);
      if (resume) {
        trainer.resume();
      }
      done = trainer.run();
    }
    out.results.push_back(std::move(*done));
    if (!out.results.back().complete) {
      out.interrupted = true;
      return out;
    }
  }
  if (root) {
    out.table = results_table(out.results);
    replace_file(out.directory + "/table.txt", out.table);
    out.figure = results_figure(out.results, out.directory);
  }
  return out;
}

}  // namespace ls::experiments
