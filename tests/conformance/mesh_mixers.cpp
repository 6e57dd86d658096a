// Every registered mixer trains on a mesh of 2 x 2 ranks as on one: packed texts and recall.
#include <doctest/doctest.h>

#include <cmath>

#include "core/comm/thread_comm.h"
#include "experiments/trainer.h"
#include "tests/support/mixer_laws.h"
#include "tests/support/text_folder.h"

using namespace ls;
using namespace ls::experiments;
using namespace ls::test;

namespace {

constexpr Index kUpdates = 4;

RunConfig run_of(const MixerCase& c, const std::string& task) {
  RunConfig run = read_config_text<RunConfig>(
      "name: run\nbatch: 4\nlr: 1e-2\nsteps: 4\nmodels: [{layers: [gla], width: 8}]\ntask: " +
      task + "\n");
  static_cast<layers::ModelConfig&>(run.models[0]) = c.config;
  run.models[0].dtype = DType::kF64;
  return run;
}

std::vector<double> losses(const RunConfig& run, Communicator& comm) {
  Trainer t(run, 0, 3, "", comm);
  std::vector<double> out;
  for (Index i = 0; i < kUpdates; ++i) {
    out.push_back(t.step());
  }
  return out;
}

/// How far the losses of 2 x 2 ranks are from those of one.
double distance(RunConfig run) {
  const auto solo = solo_communicator();
  const std::vector<double> want = losses(run, *solo);
  run.mesh.sequence = 2;
  std::vector<double> got(want.size());
  run_ranks(4, [&](Communicator& comm) {
    const std::vector<double> mine = losses(run, comm);
    if (comm.rank() == 0) {
      got = mine;
    }
  });
  double most = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    most = std::isfinite(got[i]) ? std::max(most, std::abs(got[i] - want[i])) : 1e300;
  }
  return most;
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("mixers on a mesh: the losses of one rank") {
    const TextFolder texts(2000);
    const std::string bytes =
        "{name: bytes, path: " + texts.path + "/text, length: 19, test_windows: 2}";
    const std::string recall =
        "{name: mqar, vocab: 32, train: [{length: 22, pairs: 3, examples: 64}], test: [{length: "
        "22, "
        "pairs: 3, examples: 4}]}";
    for (const MixerCase& c : mixer_cases()) {
      SUBCASE(c.name.c_str()) {
        CHECK(distance(run_of(c, bytes)) < 1e-9);
        CHECK(distance(run_of(c, recall)) < 1e-9);
      }
    }
  }
}
