// The training loop itself, in this process.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <mutex>

#include "core/comm/thread_comm.h"
#include "experiments/checkpoint.h"
#include "experiments/trainer.h"

using namespace ls;
using namespace ls::experiments;

namespace {

namespace fs = std::filesystem;

/// A folder of its own with a text in it, removed at the end.
struct Scratch {
  Scratch() {
    std::string pattern = (fs::temp_directory_path() / "longscan-trainer-XXXXXX").string();
    path = mkdtemp(pattern.data());
    fs::create_directories(path + "/text");
    for (int d = 0; d < 6; ++d) {
      std::ofstream out(path + "/text/" + std::to_string(d) + ".txt");
      for (int i = 0; i < 20000; ++i) {
        out << "abcdefghij klmn"[(i * i + d) % 15];
      }
    }
  }
  ~Scratch() { fs::remove_all(path); }
  std::string path;
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
    for (const char* state : {"reset", "carry"}) {
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
          config_of("steps: 6\nbatch: 3\nstate: carry\noptimizer: sgd\nlr: 1e-30\n", s, model);
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
