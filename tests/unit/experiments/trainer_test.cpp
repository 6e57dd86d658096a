// The training loop itself, in this process.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>

#include "core/comm/thread_comm.h"
#include "experiments/checkpoint.h"
#include "experiments/evaluate.h"
#include "experiments/report.h"
#include "experiments/run_file.h"
#include "experiments/train_step.h"
#include "experiments/trainer.h"
#include "tests/support/errors.h"
#include "tests/support/text_folder.h"

using namespace ls;
using namespace ls::experiments;

namespace {

namespace fs = std::filesystem;

/// Texts that every run here trains on.
struct Scratch : test::TextFolder {
  Scratch() : TextFolder(20000) {}
};

RunConfig config_of(const std::string& more, const Scratch& s,
                    const std::string& model =
                        "layers: [{name: gated_deltanet, heads: 1, "
                        "head_dim: 8}], width: 16, name: m") {
  return read_config_text<RunConfig>("name: run\ntask: {name: bytes, path: " + s.path +
                                     "/text, length: 16, test_windows: 4}\nmodels: [{" + model +
                                     "}]\n" + more);
}

std::vector<double> values_of(Trainer& t) {
  std::vector<double> all;
  for (const ag::Parameter& p : t.model().parameters().items()) {
    const auto v = p.var.value().to_vector<double>();
    all.insert(all.end(), v.begin(), v.end());
  }
  return all;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::abs(a[i] - b[i]));
  }
  return most;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("trainer: a batch in pieces is the batch") {
    const Scratch s;
    const auto solo = solo_communicator();
    const std::string base = "steps: 5\nbatch: 6\noptimizer: sgd\nlr: 0.5\nclip: 0.1\n";
    const RunConfig whole = config_of(base, s);
    Trainer reference(whole, 0, 3, "", *solo);
    std::vector<double> losses;
    for (int i = 0; i < 5; ++i) {
      losses.push_back(reference.step());
    }
    for (const int pieces : {2, 3, 6}) {
      const RunConfig config = config_of(base + "accumulate: " + std::to_string(pieces) + "\n", s);
      Trainer t(config, 0, 3, "", *solo);
      for (const double loss : losses) {
        CHECK(t.step() == doctest::Approx(loss).epsilon(1e-6));
      }
      CHECK(largest_difference(values_of(t), values_of(reference)) < 1e-5);
    }
  }

  TEST_CASE("trainer: ranks of threads give the parameters of one") {
    const Scratch s;
    for (const char* state : {"zero", "tbptt"}) {
      const RunConfig config = config_of(
          std::string("steps: 4\nbatch: 4\noptimizer: sgd\nlr: 0.5\nstate: ") + state + "\n", s);
      const auto solo = solo_communicator();
      Trainer reference(config, 0, 3, "", *solo);
      std::vector<double> losses;
      for (int i = 0; i < 4; ++i) {
        losses.push_back(reference.step());
      }
      const double bpb = reference.evaluate(data::Split::kValid)->slices.front().metrics.at("bpb");
      for (const int ranks : {2, 3}) {
        std::mutex mutex;
        run_ranks(ranks, [&](Communicator& comm) {
          Trainer t(config, 0, 3, "", comm);
          for (const double loss : losses) {
            const double mine = t.step();
            const std::lock_guard lock(mutex);
            CHECK(mine == doctest::Approx(loss).epsilon(1e-6));
          }
          const Evaluation e = *t.evaluate(data::Split::kValid);
          const std::lock_guard lock(mutex);
          CHECK(e.slices.front().metrics.at("bpb") == doctest::Approx(bpb).epsilon(1e-6));
          CHECK(largest_difference(values_of(t), values_of(reference)) < 1e-5);
        });
      }
    }
  }

  TEST_CASE("trainer: carried states make short rows one long sequence") {
    const Scratch s;
    const auto solo = solo_communicator();
    for (const std::string mixer :
         {"{name: gated_deltanet, heads: 1, head_dim: 8}", "{name: lstm}",
          "{name: attention, heads: 1, head_dim: 8, window: 20}", "{name: retnet, heads: 1}"}) {
      CAPTURE(mixer);
      const std::string model = "layers: [" + mixer + "], width: 16, name: m";
      // A learning rate of nothing leaves the model alone, so that only the states move on.
      const RunConfig pieces =
          config_of("steps: 6\nbatch: 3\nstate: tbptt\noptimizer: sgd\nlr: 1e-30\n", s, model);
      RunConfig long_rows =
          read_config_text<RunConfig>(dump_yaml(pieces), "text", {"task.length=96"});
      Trainer a(pieces, 0, 1, "", *solo), b(long_rows, 0, 1, "", *solo);
      double mean = 0;
      for (int i = 0; i < 6; ++i) {
        mean += a.step() / 6;
      }
      CHECK(mean == doctest::Approx(b.step()).epsilon(1e-5));
    }
  }

  TEST_CASE("trainer: ranks whose caches differ in length save and go on as one") {
    // Documents end in different rows: after an update one rank holds few keys, another many.
    const Scratch s;
    fs::remove_all(s.path + "/text");
    fs::create_directories(s.path + "/text");
    for (int d = 0; d < 120; ++d) {
      std::ofstream out(s.path + "/text/" + std::to_string(d) + ".txt");
      for (int i = 0; i < 60 + 13 * (d % 40); ++i) {
        out << "abcdefghij klmn"[(i * i + d) % 15];
      }
    }
    const std::string model =
        "layers: [{name: attention, heads: 1, head_dim: 8}], width: 16, "
        "name: m";
    const RunConfig config = config_of(
        "steps: 40\nbatch: 3\noptimizer: sgd\nlr: 0.1\nstate: tbptt\ncheckpoint: {keep: 99}\n", s,
        model);
    const auto solo = solo_communicator();
    Trainer alone(config, 0, 3, "", *solo);
    std::vector<double> losses;
    for (int i = 0; i < 40; ++i) {
      losses.push_back(alone.step());
    }
    std::mutex mutex;
    run_ranks(3, [&](Communicator& comm) {
      Trainer t(config, 0, 3, s.path + "/run", comm);
      for (std::size_t i = 0; i < 40; ++i) {
        const double loss = t.step();
        t.save();
        const std::lock_guard lock(mutex);
        CHECK(loss == doctest::Approx(losses[i]).epsilon(1e-5));
      }
    });
    // From each checkpoint one process alone goes on to the same losses.
    const std::vector<std::string> saved = list_checkpoints(s.path + "/run/checkpoints");
    REQUIRE(saved.size() == 40);
    std::set<Index> lengths;
    for (const std::string& path : saved) {
      const layers::ModelState state = *load_checkpoint(path).data.carried;
      lengths.insert(state.slots.begin()->second.value.size(1));
      CHECK(state.slots.begin()->second.value.size(1) ==
            *std::max_element(state.position.begin(), state.position.end()));
    }
    CHECK(lengths.size() > 5);
    for (std::size_t i = saved.size() - 1; i >= 20; --i) {
      fs::remove(saved[i]);
    }
    Trainer resumed(config, 0, 3, s.path + "/run", *solo);
    resumed.resume({}, std::nullopt);
    for (std::size_t i = 20; i < 40; ++i) {
      CHECK(resumed.step() == doctest::Approx(losses[i]).epsilon(1e-5));
    }
  }

  TEST_CASE("trainer: a value that is not finite is traced to its op and layer") {
    const Scratch s;
    const auto solo = solo_communicator();
    const auto model = [&](const std::string& recompute) {
      return config_of("steps: 9\nbatch: 2\nclip: 0\n", s,
                       "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}, lstm], width: 16, "
                       "name: m, recompute: " +
                           recompute);
    };
    RunConfig config = model("false");
    using Values = std::vector<std::pair<std::string, double>>;
    const auto message = [&](const Values& values) {
      Trainer t(config, 0, 1, "", *solo);
      t.step();
      for (const auto& [parameter, value] : values) {
        const ag::Parameter* const p = t.model().parameters().find(parameter);
        REQUIRE(p != nullptr);
        ag::Var(p->var).mutable_value().copy_(Tensor::full(p->var.shape(), p->var.dtype(), value));
      }
      try {
        t.step();
      } catch (const Error& e) {
        return std::string(e.what());
      }
      return std::string("no error");
    };
    const auto message_of = [&](const std::string& parameter, double value) {
      return message({{parameter, value}});
    };
    // The first product of the mixer overflows.
    std::string m = message_of("blocks.0.mixer.in.weight", 3e38);
    INFO(m);
    CHECK(m.find("the loss of update 2 of model m, seed 1, is not finite") == 0);
    CHECK(m.find("op linear: output y") != std::string::npos);
    CHECK(m.find("computed while running blocks.0.mixer;") != std::string::npos);
    CHECK(m.find("no checkpoint was written yet") != std::string::npos);
    m = message_of("blocks.0.mixer_norm.weight", NAN);
    CHECK(m.find("parameter blocks.0.mixer_norm.weight holds a value that is not finite") !=
          std::string::npos);
    // Products with zeros: finite forward, and backward a sum of the largest floats.
    for (const char* recompute : {"false", "true"}) {
      config = model(recompute);
      for (const std::string block : {"blocks.0", "blocks.1"}) {
        m = message({{block + ".channel.gate_up.weight", 0},
                     {block + ".channel.down.weight", 3e38},
                     {"norm.weight", 100}});
        INFO(m);
        CHECK(m.find("the gradient of update 2 of model m, seed 1, is not finite") == 0);
        CHECK(m.find("the gradient of input 0 of glu_linear is the first that is not finite, "
                     "computed while running " +
                     block + ".channel;") != std::string::npos);
      }
      m = message({{"blocks.1.mixer.in.weight", 3e38}, {"blocks.1.mixer_norm.weight", 0}});
      INFO(m);
      CHECK(m.find("the gradient of input 0 of linear is the first") != std::string::npos);
      CHECK(m.find("running blocks.1.mixer;") != std::string::npos);
    }
  }

  TEST_CASE("trainer: what is not finite is not saved, and the last good checkpoint stays") {
    const Scratch s;
    const auto solo = solo_communicator();
    const RunConfig config = config_of("steps: 9\nbatch: 2\ncheckpoint: {keep: 1}\n", s);
    Trainer t(config, 0, 1, s.path + "/run", *solo);
    t.step();
    t.save();
    t.step();
    t.model().parameters().items().front().var.mutable_value().copy_(
        Tensor::full(t.model().parameters().items().front().var.shape(), DType::kF32, INFINITY));
    std::string message;
    try {
      t.save();
    } catch (const Error& e) {
      message = e.what();
    }
    INFO(message);
    CHECK(message.find("left a value that is not finite in parameter") != std::string::npos);
    CHECK(message.find("step_000000001.h5") != std::string::npos);
    CHECK(list_checkpoints(s.path + "/run/checkpoints").size() == 1);
  }

  TEST_CASE("trainer: without targets there is no update; without a gradient it is zero") {
    const Scratch s;
    // Every other label is lost where a file of two bytes ends.
    for (int d = 0; d < 40; ++d) {
      fs::create_directories(s.path + "/pairs");
      std::ofstream(s.path + "/pairs/" + std::to_string(d))
          << static_cast<char>('a' + d % 7) << static_cast<char>('a' + d % 3);
    }
    static constexpr int kSteps = 40;
    for (const std::string rule :
         {"{name: adamw, weight_decay: 0.1}",
          "{name: sgd, momentum: 0.9, dampening: 0.5, weight_decay: 0.1}"}) {
      const auto config = [&](Index batch, Index pieces) {
        RunConfig c =
            config_of(fmt::format("steps: {}\nbatch: {}\naccumulate: {}\nlr: 1e-2\noptimizer: {}\n",
                                  kSteps, batch, pieces, rule),
                      s);
        return read_config_text<RunConfig>(
            dump_yaml(c), "text",
            {"task.path=" + s.path + "/pairs", "task.valid_path=" + s.path + "/text",
             "task.length=1", "task.test_lengths=[8]"});
      };
      struct Seen {
        std::vector<double> losses, values, extra, states;
        int idle = 0;
      };
      const auto train = [](const RunConfig& c, Communicator& comm) {
        RunPart part(c, 0, 3, "", comm);
        // No gradient reaches it.
        const ag::Var extra =
            part.model->parameters().add("extra", Tensor::full({3}, DType::kF32, 1), true);
        RunState state(part);
        TrainStep step(part);
        const data::Batcher batcher(
            *part.task, {.batch = c.batch, .seed = 3, .rank = comm.rank(), .ranks = comm.size()});
        Seen seen;
        const auto values = [&] {
          std::vector<double> all;
          for (const ag::Parameter& p : part.model->parameters().items()) {
            const auto v = p.var.value().to_vector<double>();
            all.insert(all.end(), v.begin(), v.end());
          }
          return all;
        };
        for (Index i = 0; i < kSteps; ++i) {
          const std::vector<double> before = values();
          const StepReport report = step.run(batcher.make(i), state);
          CHECK((values() == before) == !report.updated);
          seen.idle += !report.updated;
          seen.losses.push_back(report.updated ? report.loss : -1);
        }
        CHECK(state.step == kSteps);
        CHECK(state.updates == kSteps - seen.idle);
        seen.values = values();
        seen.extra = extra.value().to_vector<double>();
        for (const auto& states : state.optimizer) {
          for (const Tensor& t : states) {
            const auto v = t.to_vector<double>();
            seen.states.insert(seen.states.end(), v.begin(), v.end());
          }
        }
        return seen;
      };
      const auto solo = solo_communicator();
      const Seen one_row = train(config(1, 1), *solo);
      CHECK(one_row.idle > 5);
      CHECK(one_row.idle < 35);
      const Seen whole = train(config(2, 1), *solo);
      CHECK(whole.idle > 0);
      // Its gradient is zero: decay takes from it at every update, as it does from all.
      CHECK(whole.extra[0] < 1);
      CHECK(whole.extra[0] > 0.9);
      const auto same = [&](const Seen& other) {
        CHECK(other.idle == whole.idle);
        CHECK(largest_difference(other.losses, whole.losses) < 1e-5);
        CHECK(largest_difference(other.values, whole.values) < 1e-4);
        CHECK(largest_difference(other.states, whole.states) < 1e-4);
        CHECK(other.extra == whole.extra);
      };
      same(train(config(2, 2), *solo));
      for (const int ranks : {2, 3}) {  // of three, one has no row
        std::mutex mutex;
        run_ranks(ranks, [&](Communicator& comm) {
          const Seen seen = train(config(2, 1), comm);
          const std::lock_guard lock(mutex);
          same(seen);
        });
      }
    }
  }

  TEST_CASE("trainer: an update without targets shows in the line, not in its loss") {
    const Scratch s;
    const auto solo = solo_communicator();
    fs::create_directories(s.path + "/mixed");
    for (int d = 0; d < 20; ++d) {
      std::ofstream(s.path + "/mixed/" + std::to_string(d)) << (d % 2 ? "ab" : "c");
    }
    const RunConfig c = read_config_text<RunConfig>(
        dump_yaml(config_of("steps: 30\nbatch: 1\nlog_every: 1\n", s)), "text",
        {"task.path=" + s.path + "/mixed", "task.valid_path=" + s.path + "/text", "task.length=1",
         "task.test_lengths=[8]"});
    Trainer t(c, 0, 1, s.path + "/run", *solo);
    const RunResult r = t.run();
    CHECK(std::isfinite(r.train_loss));
    std::ifstream in(s.path + "/run/metrics.jsonl");
    int idle = 0, updates = 0;
    for (std::string line; std::getline(in, line);) {
      const auto j = nlohmann::ordered_json::parse(line);
      if (j.contains("without_targets")) {
        ++idle;
        CHECK(j.at("loss").is_null());
        CHECK(j.at("grad_norm").is_null());
      } else if (j.contains("loss")) {
        ++updates;
        CHECK(j.at("loss") > 0);
      }
    }
    CHECK(idle > 5);
    CHECK(updates > 2);
    CHECK(idle + updates == 30);
  }

  TEST_CASE("trainer: what is reported after a resume is what an undisturbed run reports") {
    const Scratch s;
    const auto solo = solo_communicator();
    const RunConfig c = config_of(
        "steps: 23\nbatch: 2\nlog_every: 5\neval: {every: 7}\ncheckpoint: {every: 1, "
        "keep: 99}\n",
        s);
    Trainer whole(c, 0, 1, s.path + "/whole", *solo);
    const RunResult wanted = whole.run();
    const auto lines = [&](const std::string& folder) {
      std::vector<nlohmann::ordered_json> out;
      std::ifstream in(s.path + "/" + folder + "/metrics.jsonl");
      for (std::string line; std::getline(in, line);) {
        out.push_back(nlohmann::ordered_json::parse(line));
        for (const char* measured :
             {"tokens_per_s", "seconds", "data_wait_share", "memory_bytes"}) {
          out.back().erase(measured);
        }
      }
      return out;
    };
    for (const Index step : {3, 5, 14, 23}) {
      CAPTURE(step);
      const std::string folder = "part" + std::to_string(step);
      fs::copy(s.path + "/whole", s.path + "/" + folder, fs::copy_options::recursive);
      fs::remove(s.path + "/" + folder + "/run.h5");
      for (Index later = step + 1; later <= 23; ++later) {
        fs::remove(checkpoint_path(s.path + "/" + folder + "/checkpoints", later));
      }
      Trainer rest(c, 0, 1, s.path + "/" + folder, *solo);
      rest.resume({}, std::nullopt);
      const RunResult r = rest.run();
      CHECK(lines(folder) == lines("whole"));
      CHECK(r.train_loss == wanted.train_loss);
      CHECK(r.forms == wanted.forms);
      CHECK(!r.forms.empty());
      CHECK(r.history.size() == wanted.history.size());
      CHECK(r.tokens_per_s > 0);
      CHECK(fs::exists(s.path + "/" + folder + "/run.h5"));
    }
  }

  TEST_CASE("stop: ends after so many validations that were no better, and by nothing else") {
    const auto history = [](const std::vector<double>& losses) {
      std::vector<Evaluation> out;
      for (const double loss : losses) {
        SliceResult s{.name = "T8"};
        s.metrics.values = {{"tok_acc", -loss}, {"loss", loss}};
        out.push_back({.step = std::ssize(out) + 1, .split = data::Split::kValid, .slices = {s}});
        out.push_back({.step = std::ssize(out), .split = data::Split::kTest, .slices = {s}});
      }
      return out;
    };
    for (const char* metric : {"loss", "tok_acc"}) {
      const StopConfig two{.patience = 2, .metric = metric};
      CHECK_FALSE(stops_early(history({}), two));
      CHECK_FALSE(stops_early(history({3, 4}), two));
      CHECK(stops_early(history({3, 4, 3}), two));
      CHECK_FALSE(stops_early(history({3, 4, 2, 2.5}), two));
      CHECK(stops_early(history({3, NAN, NAN}), two));
      CHECK_FALSE(stops_early(history({3, 4, 5, 6}), {.metric = metric}));
      CHECK(stops_early(history({3, 2.5, 2.2}), {.patience = 2, .metric = metric, .by = 1}));
      CHECK_FALSE(stops_early(history({3, 1.9, 1.5}), {.patience = 2, .metric = metric, .by = 1}));
    }
    // Another set of settings is not compared.
    std::vector<Evaluation> other = history({3, 4, 5});
    other[4].slices[0].not_run = "needs 9 GiB";
    CHECK_FALSE(stops_early(other, {.patience = 2}));
  }

  TEST_CASE("stop: a run that stops early is complete, marked, and the same after a resume") {
    const Scratch s;
    const auto solo = solo_communicator();
    const auto config = [](const std::string& stop) {
      return read_config_text<RunConfig>(
          "name: run\nsteps: 40\nbatch: 2\ntask: {name: parity, length: 8, test_lengths: [8], "
          "test_examples: 8}\nmodels: [{layers: [deltanet], width: 8, name: m}]\neval: {every: 4}\n"
          "checkpoint: {every: 4, keep: 9}\n" +
          stop);
    };
    const RunConfig early = config("stop: {patience: 2, by: 100}\n");
    const std::string folder = s.path + "/early";
    const RunResult r = Trainer(early, 0, 1, folder, *solo).run();
    CHECK(r.complete);
    CHECK(r.stopped_early);
    CHECK(r.steps == 12);  // the first is the best, two are no better
    CHECK(read_run_record(folder).result.stopped_early);
    CHECK(results_table({r}).find("m seed 1 stopped early, after 12 updates") != std::string::npos);
    for (const Index step : {4, 8, 12}) {
      const std::string again = s.path + "/from" + std::to_string(step);
      fs::copy(folder, again, fs::copy_options::recursive);
      for (Index later = step + 4; later <= 12; later += 4) {
        fs::remove(checkpoint_path(again + "/checkpoints", later));
      }
      fs::remove(run_file(again));
      Trainer rest(early, 0, 1, again, *solo);
      rest.resume({}, std::nullopt);
      const RunResult same = rest.run();
      CHECK(same.steps == 12);
      CHECK(same.stopped_early);
      CHECK(mean_metric(same.history.back(), "loss") == mean_metric(r.history.back(), "loss"));
    }
    const RunConfig whole = config("");
    const RunResult all = Trainer(whole, 0, 1, s.path + "/whole", *solo).run();
    CHECK(all.steps == 40);
    CHECK_FALSE(all.stopped_early);
    CHECK(test::says(test::message([&] {
                       const RunConfig wrong = config("stop: {patience: 2, metric: speed}\n");
                       check_evaluation(*data::make_task(wrong.task, {}), wrong);
                     }),
                     "has no metric 'speed'"));
  }

  TEST_CASE("trainer: a carried run is evaluated carried, as one long sequence") {
    const Scratch s;
    const auto solo = solo_communicator();
    // One file, of which the last 1,000 bytes are held out.
    const RunConfig c = read_config_text<RunConfig>(
        dump_yaml(config_of("steps: 3\nbatch: 2\nstate: tbptt\neval: {batch: 1}\n", s)), "text",
        {"task.path=" + s.path + "/text/0.txt", "task.split=tail", "task.valid_share=0.05",
         "task.test_lengths=[16, 999]", "task.test_windows=0"});
    Trainer t(c, 0, 1, "", *solo);
    t.step();
    const Evaluation e = *t.evaluate(data::Split::kValid);
    REQUIRE(e.slices.size() == 3);
    const SliceResult &windows = e.slices[0], &whole = e.slices[1], &carried = e.slices[2];
    CHECK(carried.name == "T16.carried");
    CHECK(carried.labels == 999);
    CHECK(windows.labels == 999);
    CHECK(carried.metrics.at("loss") == doctest::Approx(whole.metrics.at("loss")).epsilon(1e-6));
    CHECK(carried.metrics.at("loss") != windows.metrics.at("loss"));
    // Positions go on, too.
    REQUIRE(carried.positions.size() == whole.positions.size());
    CHECK(carried.positions.back().from == 512);
    CHECK(carried.positions.back().labels == 488);
    CHECK(windows.positions.back().from == 16);
    std::mutex mutex;
    RunConfig rows = c;
    rows.eval.batch = 5;
    Trainer reference(rows, 0, 1, "", *solo);
    const double loss = reference.evaluate(data::Split::kValid)->slices[2].metrics.at("loss");
    run_ranks(2, [&](Communicator& comm) {
      Trainer part(rows, 0, 1, "", comm);
      const Evaluation mine = *part.evaluate(data::Split::kValid);
      const std::lock_guard lock(mutex);
      CHECK(mine.slices[2].metrics.at("loss") == doctest::Approx(loss).epsilon(1e-6));
    });
  }

  TEST_CASE("trainer: the best checkpoint by validation is kept and named, also after a resume") {
    const Scratch s;
    const auto solo = solo_communicator();
    const RunConfig c = config_of(
        "steps: 12\nbatch: 2\nlr: 3e-2\neval: {every: 2}\ncheckpoint: {every: 3, keep: 9, best: "
        "bpb}\n",
        s);
    const RunResult r = Trainer(c, 0, 1, s.path + "/whole", *solo).run();
    REQUIRE(r.best.has_value());
    Index best = 0;
    double least = INFINITY;
    for (const Evaluation& e : r.history) {
      if (mean_metric(e, "bpb") < least) {
        least = mean_metric(e, "bpb");
        best = e.step;
      }
    }
    CHECK(r.best->step == best);
    CHECK(r.best->value == least);
    const std::string path = best_checkpoint_path(s.path + "/whole/checkpoints");
    CHECK(load_checkpoint(path).data.step == best);
    CHECK(read_run_record(s.path + "/whole").result.best->step == best);
    CHECK(list_checkpoints(s.path + "/whole/checkpoints").size() == 4);
    for (const Index step : {3, 6, 12}) {
      const std::string folder = s.path + "/part" + std::to_string(step);
      fs::copy(s.path + "/whole", folder, fs::copy_options::recursive);
      fs::remove(folder + "/run.h5");
      for (Index later = step + 1; later <= 12; ++later) {
        fs::remove(checkpoint_path(folder + "/checkpoints", later));
      }
      Trainer rest(c, 0, 1, folder, *solo);
      rest.resume({}, std::nullopt);
      const RunResult again = rest.run();
      REQUIRE(again.best.has_value());
      CHECK(again.best->step == best);
      CHECK(again.best->value == least);
      CHECK(load_checkpoint(best_checkpoint_path(folder + "/checkpoints")).data.step == best);
    }
  }

  TEST_CASE("trainer: a longer run keeps the best evaluation, made after the last checkpoint") {
    const auto solo = solo_communicator();
    int worse = 0;  // runs that the longer one makes worse
    for (const char* lr : {"0.1", "0.3", "1", "3"}) {
      const Scratch s;
      const auto config = [&](const std::string& steps) {
        return config_of(
            "batch: 2\nschedule: {name: constant}\ncheckpoint: {best: bpb}\n"
            "eval: {every: 100}\nsteps: " +
                steps + "\nlr: " + lr + "\n",
            s);
      };
      const RunConfig shorter = config("4"), longer = config("6");
      const std::string folder = s.path + "/run";
      const RunResult first = Trainer(shorter, 0, 1, folder, *solo).run();
      fs::remove(folder + "/run.h5");
      Trainer more(longer, 0, 1, folder, *solo);
      more.resume({}, first);
      const RunResult second = more.run();
      REQUIRE(second.history.size() == 2);
      REQUIRE(second.best.has_value());
      const double before = mean_metric(second.history[0], "bpb"),
                   after = mean_metric(second.history[1], "bpb");
      CHECK(second.best->value == std::min(before, after));
      CHECK(second.best->step == (after < before ? 6 : 4));
      worse += after > before ? 1 : 0;
    }
    CHECK(worse > 0);
  }

  TEST_CASE("trainer: bf16 trains, with f32 parameters") {
    const Scratch s;
    const auto solo = solo_communicator();
    const std::string base = "steps: 40\nbatch: 8\nlr: 1e-2\n";
    const std::string model =
        "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}, {name: "
        "attention, heads: 1, head_dim: 8}], width: 16, name: m";
    const RunConfig f32 = config_of(base, s, model);
    const RunConfig bf16 = config_of(base, s, model + ", dtype: bf16");
    Trainer a(f32, 0, 1, "", *solo), b(bf16, 0, 1, "", *solo);
    double last_a = 0, last_b = 0;
    for (int i = 0; i < 40; ++i) {
      last_a = a.step();
      last_b = b.step();
    }
    CHECK(last_b < 3.5);  // from ln 256 = 5.5
    CHECK(last_b == doctest::Approx(last_a).epsilon(0.1));
    for (const ag::Parameter& p : b.model().parameters().items()) {
      CHECK(p.var.dtype() == DType::kF32);
    }
  }
}
