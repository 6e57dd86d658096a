// Ranks that have shards train as ranks that have everything.
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <numeric>

#include "core/comm/thread_comm.h"
#include "experiments/checkpoint.h"
#include "experiments/trainer.h"
#include "tests/support/errors.h"
#include "tests/support/stand_in.h"
#include "tests/support/text_folder.h"

using namespace ls;
using namespace ls::experiments;
using namespace ls::test;

namespace {

struct Scratch : test::TextFolder {
  Scratch() : TextFolder(20000) {}
};

/// A model with everything whose gradients come in more than one place.
const std::string kModel =
    "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}, {name: lstm}], width: 16, name: m";

RunConfig config_of(const Scratch& s, const std::string& model, const std::string& more,
                    const std::string& shard) {
  return read_config_text<RunConfig>(
      "name: run\ntask: {name: bytes, path: " + s.path +
      "/text, length: 16, test_windows: 4}\nbatch: 8\nlr: 1e-2\nsteps: 6\nmodels: [{" + model +
      "}]\nmesh: {shard: " + shard + "}\n" + more);
}

/// Gives every element of the optimizer's states a number of its own, the same for any ranks.
void number(const RunPart& part, RunState& state) {
  const ag::ParameterSet& parameters = part.model->parameters();
  const auto fill = [&](std::size_t i, Index begin) {
    for (std::size_t s = 0; s < state.optimizer[i].size(); ++s) {
      Tensor& t = state.optimizer[i][s];
      std::vector<double> values;
      for (Index k = 0; k < t.numel(); ++k) {
        values.push_back(static_cast<double>(i + 1) + 0.3 * static_cast<double>(s) +
                         1e-5 * static_cast<double>(begin + k));
      }
      t.copy_(Tensor::from(values, t.shape()).to(t.dtype()));
    }
  };
  for (std::size_t i = 0; i < state.optimizer.size() && !part.shards; ++i) {
    fill(i, 0);
  }
  for (const auto& block : parameters.blocks()) {
    for (const ag::ShardPart& p : part.shards ? parameters.parts_of_shard(block, part.comm.rank())
                                              : std::vector<ag::ShardPart>()) {
      fill(p.parameter, p.begin);
    }
  }
}

/// What a run ends in: losses, then parameters.
struct Ended {
  std::vector<double> losses, values;
  ag::HeldBytes bytes;
  Index states = 0;  // bytes of the optimizer
};

Ended train(const RunConfig& config, Communicator& comm, const std::string& folder = "",
            Index updates = 6, Device& device = cpu()) {
  Trainer t(config, 0, 3, folder, comm, device);
  if (!folder.empty()) {
    t.resume({}, std::nullopt);
  }
  Ended e;
  for (Index i = 0; i < updates; ++i) {
    e.losses.push_back(t.step());
  }
  if (!folder.empty()) {
    t.save();
  }
  e.bytes = t.model().parameters().held_bytes();
  const ag::Hold hold = t.model().parameters().hold_all();
  for (const ag::Parameter& p : t.model().parameters().items()) {
    const auto v = p.var.value().to(cpu()).to_vector<double>();
    e.values.insert(e.values.end(), v.begin(), v.end());
  }
  e.states = t.optimizer_bytes();
  return e;
}

std::vector<Ended> on_ranks(int ranks, const RunConfig& config, const std::string& folder = "",
                            Index updates = 6) {
  std::vector<Ended> all(static_cast<std::size_t>(ranks));
  run_ranks(ranks, [&](Communicator& comm) {
    all[static_cast<std::size_t>(comm.rank())] = train(config, comm, folder, updates);
  });
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
  TEST_CASE("shards: the bits of ranks that have everything, where nothing is clipped") {
    const Scratch s;
    for (const std::string& model :
         {kModel, kModel + ", tie_embeddings: true", kModel + ", dtype: bf16",
          kModel + ", recompute: true, dtype: bf16, tie_embeddings: true"}) {
      CAPTURE(model);
      for (const int ranks : {1, 2, 3, 4}) {
        const Ended whole = on_ranks(ranks, config_of(s, model, "clip: 0\n", "none"))[0];
        for (const char* const shard : {"optimizer", "parameters"}) {
          for (const Ended& e : on_ranks(ranks, config_of(s, model, "clip: 0\n", shard))) {
            CHECK(e.losses == whole.losses);
            CHECK(e.values == whole.values);
          }
        }
      }
    }
  }

  TEST_CASE("shards: norms of shards are norms, and pieces add up") {
    const Scratch s;
    for (const char* const more : {"clip: 0.1\n", "clip: 0.1\naccumulate: 2\n",
                                   "clip: 0.1\nstate: tbptt\n", "optimizer: sgd\nclip: 0.1\n"}) {
      CAPTURE(more);
      const Ended whole = on_ranks(2, config_of(s, kModel, more, "none"))[0];
      for (const char* const shard : {"optimizer", "parameters"}) {
        const std::vector<Ended> all = on_ranks(2, config_of(s, kModel, more, shard));
        CHECK(all[0].values == all[1].values);
        CHECK(largest_difference(all[0].losses, whole.losses) < 1e-5);
        CHECK(largest_difference(all[0].values, whole.values) < 1e-5);
      }
    }
  }

  TEST_CASE("shards: ranks without rows of a batch, or of a piece of it, wait for nobody") {
    for (const char* const more : {"batch: 8\n", "batch: 2\n", "batch: 8\naccumulate: 2\n"}) {
      CAPTURE(more);
      const auto config = [&](const std::string& shard) {  // batches of 8 rows and of 1
        return read_config_text<RunConfig>(
            "name: run\ntask: {name: mqar, variant: continuous_forgetting, width: 8, vocab: 16, "
            "train: [{pairs: 2, updates: 1, examples: 9}], test: [{pairs: 2, updates: 1, "
            "examples: 4}]}\nlr: 1e-2\nclip: 0\nsteps: 6\nmodels: [{" +
            kModel + "}]\nmesh: {shard: " + shard + "}\n" + more);
      };
      for (const int ranks : {2, 3}) {
        const Ended whole = on_ranks(ranks, config("none"))[0];
        for (const Ended& e : on_ranks(ranks, config("parameters"))) {
          CHECK(largest_difference(e.losses, whole.losses) < 1e-5);
          CHECK(largest_difference(e.values, whole.values) < 1e-5);
        }
      }
    }
  }

  TEST_CASE("shards: a rank has its share of the bytes, and of a block all while it is held") {
    const Scratch s;
    const std::string large =
        "layers: [{repeat: 6, of: [{name: lstm}]}], width: 32, name: m, tie_embeddings: true";
    const Ended alone = on_ranks(1, config_of(s, large, "", "none"))[0];
    const Index all = std::ssize(alone.values) * 4;
    for (const int ranks : {2, 4}) {
      for (const Ended& e : on_ranks(ranks, config_of(s, large, "", "optimizer"))) {
        CHECK(e.states < 2.2 * static_cast<double>(all) / ranks);
      }
      for (const Ended& e : on_ranks(ranks, config_of(s, large, "", "parameters"))) {
        MESSAGE(ranks << " ranks: " << 2 * all << " bytes of values and gradients, shards "
                      << e.bytes.shards << ", whole at most " << e.bytes.most << ", states "
                      << e.states << " of " << alone.states);
        CHECK(e.states < 2.2 * static_cast<double>(all) / ranks);
        CHECK(e.bytes.shards < 2.2 * static_cast<double>(all) / ranks);
        CHECK(e.bytes.most < 0.8 * static_cast<double>(all));
        CHECK(e.bytes.whole == 0);
      }
    }
  }

  TEST_CASE("shards: checkpoints know nothing of them") {
    const Scratch s;
    const Ended whole = on_ranks(1, config_of(s, kModel, "clip: 0\n", "none"))[0];
    int folder = 0;
    for (const auto& [before, after] : {std::pair(3, 2), std::pair(2, 4), std::pair(4, 1)}) {
      for (const char* const shard : {"optimizer", "parameters"}) {
        const std::string path = s.path + "/shards" + std::to_string(folder++);
        on_ranks(before, config_of(s, kModel, "clip: 0\n", shard), path, 3);
        const char* const other = folder % 2 == 0 ? "parameters" : "none";
        const Ended e = on_ranks(after, config_of(s, kModel, "clip: 0\n", other), path, 3)[0];
        CHECK(largest_difference(e.values, whole.values) < 1e-5);
      }
    }
  }

  TEST_CASE("shards: a checkpoint is written block by block and is that of one rank") {
    const Scratch s;
    const std::string large =
        "layers: [{repeat: 6, of: [{name: lstm}]}], width: 32, name: m, tie_embeddings: true";
    const auto written = [&](int ranks, const std::string& shard) {
      const std::string folder = fmt::format("{}/{}_{}", s.path, shard, ranks);
      std::vector<ag::HeldBytes> bytes(static_cast<std::size_t>(ranks));
      run_ranks(ranks, [&](Communicator& comm) {
        const RunConfig config = config_of(s, large, "clip: 0\n", shard);
        RunPart part(config, 0, 3, folder, comm);
        RunState state(part);
        state.step = 1;
        number(part, state);
        save_state(part, state);
        bytes[static_cast<std::size_t>(comm.rank())] = part.model->parameters().held_bytes();
      });
      for (const ag::HeldBytes& b : bytes) {
        CHECK(b.most == 0);  // no block of the model was held
      }
      return load_checkpoint(checkpoint_path(folder + "/checkpoints", 1));
    };
    const LoadedCheckpoint want = written(1, "none");
    const auto same = [](const Tensor& a, const Tensor& b) {
      return a.to_vector<double>() == b.to_vector<double>();
    };
    for (const int ranks : {2, 3}) {
      for (const char* const shard : {"optimizer", "parameters"}) {
        const LoadedCheckpoint got = written(ranks, shard);
        REQUIRE(got.parameters.size() == want.parameters.size());
        for (std::size_t i = 0; i < got.parameters.size(); ++i) {
          CHECK(got.parameters[i].first == want.parameters[i].first);
          CHECK(same(got.parameters[i].second, want.parameters[i].second));
          for (std::size_t k = 0; k < got.data.optimizer[i].size(); ++k) {
            CHECK(same(got.data.optimizer[i][k], want.data.optimizer[i][k]));
          }
        }
      }
    }
  }

  TEST_CASE("shards: where the first rank cannot write, others do not wait") {
    const Scratch s;
    std::ofstream(s.path + "/in_the_way") << "a file";
    const std::string folder = s.path + "/in_the_way/run";
    std::vector<std::string> told(2);
    run_ranks(2, [&](Communicator& comm) {
      const RunConfig config = config_of(s, kModel, "clip: 0\n", "parameters");
      RunPart part(config, 0, 3, folder, comm);
      RunState state(part);
      told[static_cast<std::size_t>(comm.rank())] = message([&] { save_state(part, state); });
      comm.barrier();  // both are here
    });
    CHECK(!told[0].empty());
    CHECK(told[1] == "nothing thrown");
  }

  TEST_CASE("shards: the same bits on devices") {
    const Scratch s;
    for (const char* const shard : {"optimizer", "parameters"}) {
      const RunConfig config =
          config_of(s, kModel + ", dtype: bf16, tie_embeddings: true", "clip: 0.1\n", shard);
      const std::vector<Ended> here = on_ranks(2, config);
      run_ranks(2, [&](Communicator& comm) {
        StandIn device(220 + static_cast<std::uint64_t>(comm.rank()));
        device.run_by_itself();
        const Ended there = train(config, comm, "", 6, device);
        CHECK(there.losses == here[0].losses);
        CHECK(there.values == here[0].values);
      });
    }
  }

  TEST_CASE("shards: evaluations and a run to its end") {
    const Scratch s;
    const auto told = [&](const std::string& shard, const std::string& eval) {
      std::vector<std::string> all(3);
      const RunConfig config = config_of(s, kModel, "eval: {" + eval + "}\nclip: 0\n", shard);
      run_ranks(3, [&](Communicator& comm) {
        Trainer t(config, 0, 3, "", comm);
        const RunResult r = t.run();
        std::string& to = all[static_cast<std::size_t>(comm.rank())];
        to = fmt::format("{} {}", r.train_loss, r.state.total());
        for (const Evaluation& e : r.history) {
          for (const auto& [name, value] : e.slices.front().metrics.values) {
            to += fmt::format(" {} {}", name, value);
          }
        }
      });
      return all;
    };
    for (const char* const eval : {"every: 2", "every: 2, batch: 2"}) {  // ranks without rows
      const std::vector<std::string> whole = told("none", eval);
      CHECK(told("optimizer", eval) == whole);
      CHECK(told("parameters", eval) == whole);
    }
  }

  TEST_CASE("shards: an evaluation holds a block at a time") {
    const Scratch s;
    const RunConfig config = config_of(
        s, "layers: [{repeat: 6, of: [{name: lstm}]}], width: 32, name: m", "", "parameters");
    run_ranks(2, [&](Communicator& comm) {
      Trainer t(config, 0, 3, "", comm);
      CHECK(t.evaluate(data::Split::kValid).has_value());
      const ag::HeldBytes bytes = t.model().parameters().held_bytes();
      CHECK(bytes.whole == 0);
      CHECK(bytes.most > 0);
      CHECK(static_cast<double>(bytes.most) <
            0.5 * static_cast<double>(t.model().parameters().count() * 4));
    });
  }

  TEST_CASE("shards: ranks stop together and say why") {
    const Scratch s;
    const auto ends = [&](const std::string& shard) {
      std::vector<std::string> all(2);
      const RunConfig config =
          config_of(s, kModel, "clip: 0\noptimizer: sgd\nschedule: {name: constant}\n", shard);
      run_ranks(2, [&](Communicator& comm) {
        Trainer t(config, 0, 3, "", comm);
        t.step();
        {
          const ag::Hold hold = t.model().parameters().hold_all();
          ag::Var weight = t.model().parameters().find("blocks.1.channel.gate_up.weight")->var;
          weight.mutable_value().fill_(1e30);
          t.model().parameters().keep_values();
        }
        try {
          t.steps(3);
        } catch (const Error& e) {
          all[static_cast<std::size_t>(comm.rank())] = e.message();
        }
      });
      return all;
    };
    const std::vector<std::string> whole = ends("none");
    CHECK(whole[0].find("is not finite") != std::string::npos);
    CHECK(ends("optimizer") == whole);
    CHECK(ends("parameters") == whole);
  }

  TEST_CASE("shards: nothing is used outside of its hold") {
    const Scratch s;
    const RunConfig config = config_of(s, kModel, "", "parameters");
    run_ranks(2, [&](Communicator& comm) {
      Trainer t(config, 0, 3, "", comm);
      t.step();
      const ag::ParameterSet& parameters = t.model().parameters();
      const Tensor kept = parameters.items()[3].var.value();
      CHECK(says(message([&] { kept.clone(); }), "outside of its hold"));
      {
        const ag::Hold hold = parameters.hold_all();
        CHECK(std::isfinite(kept.to_vector<double>()[0]));
      }
      CHECK(says(message([&] { kept.to_vector<double>(); }), "outside of its hold"));
    });
    // An address that was kept is that of a buffer which was freed: a device that checks says so.
    run_ranks(2, [&](Communicator& comm) {
      StandIn device(200 + static_cast<std::uint64_t>(comm.rank()));
      device.run_by_itself();
      Trainer t(config, 0, 3, "", comm, device);
      t.step();
      const ag::ParameterSet& parameters = t.model().parameters();
      const void* address = nullptr;
      Index bytes = 0;
      {
        const ag::Hold hold = parameters.hold_all();
        const Tensor value = parameters.items()[3].var.value();
        address = value.storage()->data();
        bytes = value.bytes();
      }
      const Access use{address, bytes, false};
      Stream& stream = current_stream(device);
      CHECK(says(message([&] { stream.launch([] {}, {&use, 1}); }), "after it was freed"));
    });
  }
}
