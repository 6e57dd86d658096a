#include "experiments/run.h"
#include "experiments/figure.h"
#include "experiments/stop.h"
#include "experiments/table.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "autograd/tape.h"
#include "core/base/log.h"
#include "core/io/files.h"
#include "parallel/grad_sync.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

struct MeanSpread {
  double mean = 0, spread = 0;
  std::size_t n = 0;
};
/// Spread is the standard deviation over seeds (n - 1).
MeanSpread mean_spread(const std::vector<double>& v) {
  MeanSpread out;
  out.n = v.size();
  for (const double x : v) {
    out.mean += x / static_cast<double>(v.size());
  }
  for (const double x : v) {
    out.spread += (x - out.mean) * (x - out.mean);
  }
  out.spread = v.size() > 1 ? std::sqrt(out.spread / static_cast<double>(v.size() - 1)) : 0;
  return out;
}

std::string show(const MeanSpread& m, int digits) {
  return m.n > 1 ? fmt::format("{:.{}f} ±{:.{}f}", m.mean, digits, m.spread, digits)
                 : fmt::format("{:.{}f}", m.mean, digits);
}

/// What result.json of `path` says. @throws Error(Io) when it is something else
RunResult parse_result(const std::string& text, const std::string& path) {
  RunResult r;
  try {
    const Json j = Json::parse(text);
    r.model = j.at("model");
    r.config_hash = j.at("config_hash");
    r.metrics = j.at("metrics").get<std::vector<std::string>>();
    r.seed = j.at("seed");
    r.parameters = j.at("parameters");
    r.steps = j.at("steps");
    r.tokens = j.at("tokens");
    r.seconds = j.at("train_seconds");
    r.wall_seconds = j.at("wall_seconds");
    r.tokens_per_s = j.at("tokens_per_s");
    r.train_loss = j.at("train_loss").is_number() ? j.at("train_loss").get<double>() : NAN;
    r.state_tokens = j.at("state_tokens");
    const Json& s = j.at("state_bytes");
    r.state = {s.at("matrix"), s.at("vector"), s.at("conv"), s.at("kv")};
    r.interrupted = !j.at("complete").get<bool>();
    for (const Json& h : j.at("history")) {
      r.history.push_back(evaluation_from_json(h.dump()));
    }
  } catch (const Json::exception& e) {
    LS_FAIL(kIo, "{}: is not a result of this program ({}); remove it or use --fresh", path,
            e.what());
  }
  return r;
}

/// The result of a part that an earlier sitting finished. Rank 0 reads.
std::optional<RunResult> finished_part(const RunConfig& config, const std::string& part,
                                       Communicator& comm) {
  const std::string path = part + "/result.json";
  std::string text;
  if (comm.rank() == 0 && fs::exists(path)) {
    text = read_file(path);
  }
  parallel::broadcast_text(comm, text);
  if (text.empty()) {
    return std::nullopt;
  }
  RunResult r = parse_result(text, path);
  LS_CHECK(r.config_hash == config_hash(config), kConfig,
           "{} was written by another configuration (hash {}, this one is {}); restore the config "
           "or start over with --fresh",
           path, r.config_hash, config_hash(config));
  return r.interrupted ? std::nullopt : std::optional(std::move(r));
}

/// Keeps a second process out of a run's folder while it lives, however it ends.
class RunLock {
 public:
  explicit RunLock(const std::string& directory) {
    const std::string path = directory + "/.lock";
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    LS_CHECK(fd_ >= 0, kIo,
             "{}: cannot be written to: {}; go on as the user who made it, or choose another name "
             "or output folder",
             directory, write_failure(errno));
    if (::flock(fd_, LOCK_EX | LOCK_NB) == 0) {
      const std::string owner = fmt::format("process {}", ::getpid());
      if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, owner.data(), owner.size(), 0) < 0) {
        log(LogLevel::kDebug, "the lock of the run names no owner");
      }
      return;
    }
    const int error = errno;
    const std::string owner = error == EWOULDBLOCK ? read_file(path) : "";
    ::close(fd_);
    LS_CHECK(error != EWOULDBLOCK, kIo,
             "{} is in use by {}: wait for it, stop it, or give this run another name", directory,
             owner.empty() ? "another process" : owner);
    fd_ = -1;
    log_warn("this file system has no locks: see to it that no other process uses the folder",
             {{"path", directory}});
  }
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;
  ~RunLock() {
    if (fd_ >= 0) {
      ::close(fd_);
    }
  }

 private:
  int fd_ = -1;
};

/// The final evaluation: its columns are slice + metric, the headline metric of every slice and,
/// for one slice, its tags.
std::vector<std::pair<std::string, std::string>> columns_of(const RunResult& r) {
  std::vector<std::pair<std::string, std::string>> out;
  if (r.history.empty()) {
    return out;
  }
  const auto& slices = r.history.back().slices;
  for (const auto& [slice, metrics] : slices) {
    out.emplace_back(slice, r.metrics.front());
    for (const auto& [name, value] : metrics) {
      if (slices.size() == 1 && name.find('/') != std::string::npos) {
        out.emplace_back(slice, name);
      }
    }
  }
  return out;
}

std::vector<Panel> panels_of(const std::vector<RunResult>& results) {
  std::vector<Panel> panels;
  if (results.empty() || results.front().history.empty()) {
    return panels;
  }
  for (const auto& [slice, metric] : columns_of(results.front())) {
    Panel panel;
    panel.title = slice;
    panel.x_label = "update";
    panel.y_label = metric;
    if (metric.find("acc") != std::string::npos) {
      panel.y_min = 0;
      panel.y_max = 1.02;
    }
    std::vector<std::string> order;
    std::map<std::string, std::map<Index, std::vector<double>>> curves;
    for (const RunResult& r : results) {
      if (std::find(order.begin(), order.end(), r.model) == order.end()) {
        order.push_back(r.model);
      }
      for (const Evaluation& e : r.history) {
        const auto s = e.slices.find(slice);
        if (s != e.slices.end() && s->second.count(metric)) {
          curves[r.model][e.step].push_back(s->second.at(metric));
        }
      }
    }
    for (const std::string& model : order) {
      Series line;
      line.label = model;
      for (const auto& [step, values] : curves[model]) {
        const MeanSpread m = mean_spread(values);
        line.x.push_back(static_cast<double>(step));
        line.y.push_back(m.mean);
        if (m.n > 1) {
          line.spread.push_back(m.spread);
        }
      }
      if (line.spread.size() != line.x.size()) {
        line.spread.clear();
      }
      panel.series.push_back(std::move(line));
    }
    panels.push_back(std::move(panel));
    if (panels.size() == 4) {
      break;
    }
  }
  return panels;
}

// Runs f; its errors begin with the place in the config.
template <class F>
auto located(const Where& where, const std::string& path, F&& f) {
  try {
    return f();
  } catch (const Error& e) {
    throw Error(e.kind(), where(path) + ": " + path + ": " + e.what(), e.where());
  }
}

// Builds everything that the run will build, and sends one token through each model.
void rehearse(const RunConfig& config, const Where& where) {
  const auto seed = static_cast<std::uint64_t>(config.seeds.front());
  const std::unique_ptr<data::Task> task = located(where, "task", [&] {
    return data::make_task(config.task, {.seed = seed, .stream = config.state == "carry"});
  });
  const layers::ModelInterface io = model_interface(*task);
  const ag::NoGrad no_grad;
  for (std::size_t m = 0; m < config.models.size(); ++m) {
    located(where, "models." + std::to_string(m), [&] {
      layers::Model model(config.models[m], io, seed);
      layers::SeqContext seq(1, 1, scan_options(config.scan));
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
  const std::set<std::string> unique(labels.begin(), labels.end());
  for (std::size_t i = 0; i < labels.size(); ++i) {
    LS_CHECK(std::find(labels.begin(), labels.begin() + static_cast<std::ptrdiff_t>(i),
                       labels[i]) == labels.begin() + static_cast<std::ptrdiff_t>(i),
             kConfig, "models.{} is named '{}' like an earlier model; give it a name of its own", i,
             labels[i]);
    LS_CHECK(labels[i].find('/') == std::string::npos, kConfig,
             "models.{}.name: '{}' names a folder: no slashes", i, labels[i]);
  }
  const std::set<Index> seeds(config.seeds.begin(), config.seeds.end());
  LS_CHECK(seeds.size() == config.seeds.size(), kConfig, "seeds: a seed is listed twice");
}

std::string part_directory(const RunConfig& config, std::size_t model, Index seed) {
  return fmt::format("{}/{}/{}/seed{}", config.output, config.name, model_labels(config)[model],
                     seed);
}

std::string results_table(const std::vector<RunResult>& results) {
  if (results.empty()) {
    return "";
  }
  const auto columns = columns_of(results.front());
  std::vector<std::string> header = {"model", "parameters", "state bytes"};
  const bool one_slice =
      !results.front().history.empty() && results.front().history.back().slices.size() == 1;
  for (const auto& [slice, metric] : columns) {
    header.push_back(one_slice ? metric : slice + " " + metric);
  }
  header.insert(header.end(), {"train loss", "tokens/s", "time"});
  Table table(header);
  std::vector<std::string> order;
  for (const RunResult& r : results) {
    if (std::find(order.begin(), order.end(), r.model) == order.end()) {
      order.push_back(r.model);
    }
  }
  for (const std::string& model : order) {
    std::vector<double> loss, rate, seconds;
    std::map<std::pair<std::string, std::string>, std::vector<double>> values;
    const RunResult* first = nullptr;
    for (const RunResult& r : results) {
      if (r.model != model) {
        continue;
      }
      first = first ? first : &r;
      loss.push_back(r.train_loss);
      rate.push_back(r.tokens_per_s);
      seconds.push_back(r.seconds);
      for (const auto& c : columns) {
        if (!r.history.empty() && r.history.back().slices.count(c.first) &&
            r.history.back().slices.at(c.first).count(c.second)) {
          values[c].push_back(r.history.back().slices.at(c.first).at(c.second));
        }
      }
    }
    std::vector<std::string> row = {model, std::to_string(first->parameters),
                                    std::to_string(first->state.total())};
    for (const auto& c : columns) {
      row.push_back(values[c].empty() ? "-" : show(mean_spread(values[c]), 3));
    }
    row.push_back(show(mean_spread(loss), 4));
    row.push_back(human_count(mean_spread(rate).mean));
    row.push_back(human_seconds(mean_spread(seconds).mean));
    table.add(std::move(row));
  }
  return table.str();
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
    const parallel::RawBuffer buffer{text.data(), static_cast<Index>(text.size()), DType::kU8};
    parallel::check_same_across_ranks(comm, parallel::hash_buffers({&buffer, 1}),
                                      "the configuration");
  }
  std::optional<RunLock> lock;
  if (root) {
    create_directories(out.directory);
    lock.emplace(out.directory);
    for (std::size_t m = 0; m < config.models.size(); ++m) {
      for (const Index seed : config.seeds) {
        const std::string part = part_directory(config, m, seed);
        if (existing == Existing::kFresh) {
          std::error_code error;
          fs::remove_all(part, error);
          LS_CHECK(!error, kIo,
                   "{}: cannot be deleted to start over: {}; delete it as the user who made it, or "
                   "choose another name or output folder",
                   part, error.message());
        }
        LS_CHECK(existing != Existing::kRefuse || !fs::exists(part + "/metrics.jsonl"), kConfig,
                 "{} already holds a run; go on with --resume, start over with --fresh, or choose "
                 "another name",
                 part);
      }
    }
  }
  comm.barrier();
  for (std::size_t m = 0; m < config.models.size() && !out.interrupted; ++m) {
    for (const Index seed : config.seeds) {
      const std::string part = part_directory(config, m, seed);
      if (existing == Existing::kResume) {
        if (std::optional<RunResult> done = finished_part(config, part, comm)) {
          out.results.push_back(std::move(*done));
          continue;
        }
      }
      if (stop_signal(comm) != 0) {
        out.interrupted = true;
        break;
      }
      Trainer trainer(config, m, static_cast<std::uint64_t>(seed), part, comm);
      if (existing == Existing::kResume) {
        trainer.resume();
      }
      out.results.push_back(trainer.run());
      if (out.results.back().interrupted) {
        out.interrupted = true;
        break;
      }
    }
  }
  if (root && !out.interrupted) {
    out.table = results_table(out.results);
    replace_file(out.directory + "/table.txt", out.table);
    const std::vector<Panel> panels = panels_of(out.results);
    if (!panels.empty()) {
      const std::string why = draw_figure(out.directory + "/figure", panels);
      if (why.empty()) {
        out.figure = out.directory + "/figure.svg";
      } else {
        log_warn("no figure: " + why);
      }
    }
  }
  return out;
}

}  // namespace ls::experiments
