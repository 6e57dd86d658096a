#pragma once
// Small runs for the tests of `state:`.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "experiments/train_step.h"
#include "experiments/trainer.h"
#include "tests/support/text_folder.h"

namespace ls::test::states {

using namespace ls::experiments;

/// Texts of which some end inside rows.
struct Scratch : TextFolder {
  Scratch() : TextFolder(1000) {}
};

inline constexpr const char* kHybrid =
    "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}, {name: attention, heads: 1, "
    "head_dim: 8, window: 6}, {name: lstm}]";

inline RunConfig config_of(const Scratch& s, const std::string& state, const std::string& more = "",
                           const std::string& model = kHybrid) {
  return read_config_text<RunConfig>(
      "name: run\nsteps: 40\nbatch: 6\nlr: 0.05\noptimizer: sgd\ntask: {name: bytes, path: " +
      s.path + "/text, length: 24, test_windows: 4, split: tail, valid_share: 0.1}\n" +
      "models: [{width: 16, name: m, " + model + "}]\nstate: " + state + "\n" + more);
}

inline std::vector<double> values_of(Trainer& t) {
  std::vector<double> all;
  for (const ag::Parameter& p : t.model().parameters().items()) {
    const auto v = p.var.value().to_vector<double>();
    all.insert(all.end(), v.begin(), v.end());
  }
  return all;
}

inline std::vector<double> losses_of(Trainer& t, int n) {
  std::vector<double> losses;
  for (int i = 0; i < n; ++i) {
    losses.push_back(t.step());
  }
  return losses;
}

inline void check_near(const std::vector<double>& a, const std::vector<double>& b, double epsilon) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i] == doctest::Approx(b[i]).epsilon(epsilon));
  }
}

/// The part of a run that a test looks into.
struct Parts {
  Parts(RunConfig with, Communicator& comm, std::uint64_t seed = 3)
      : config(std::move(with)),
        part(config, 0, seed, "", comm),
        state(part),
        step(part),
        batcher(*part.task, {.batch = config.batch, .seed = seed}) {}
  double run() { return step.run(batcher.make(state.step), state).loss; }
  RunConfig config;
  RunPart part;
  RunState state;
  TrainStep step;
  data::Batcher batcher;
};

}  // namespace ls::test::states
