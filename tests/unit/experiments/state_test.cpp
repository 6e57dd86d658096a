// What rows start from (`state:`): the same for any ranks, pieces, device and after a resume.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <mutex>
#include <set>

#include "core/comm/thread_comm.h"
#include "tests/support/errors.h"
#include "tests/support/stand_in.h"
#include "tests/support/state_runs.h"

using namespace ls;
using namespace ls::test::states;
using ls::test::StandIn;

namespace {

constexpr const char* kModes[] = {
    "zero",
    "passed",
    "{zero: 0.5, passed: 0.5}",
    "{gaussian: 0.5, std: 0.3}",
    "{fitted: 0.7, fit_every: 3}",
    "tbptt",
    "{tbptt: 0.6, passed: 0.4}",
    "learned",
    "{learned: 0.4, passed: 0.3, zero: 0.3}",
    "{learned: 0.5, tbptt: 0.5, segments: 2}",
    "{tbptt: 1, segments: 4}",
    "{passed: 0.5, segments: 4, back: 2}",
    "{fitted: 0.4, gaussian: 0.3, std: 1, segments: 3, back: 1, fit_every: 2}",
};

/// Keys and values beside passed states stay on one rank.
std::string on_ranks(const std::string& mode) {
  const bool both = mode.find("tbptt") != std::string::npos && mode.find("passed") != mode.npos;
  return both ? "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}, {name: lstm}]" : kHybrid;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("state: modes are drawn by seed, update and row, and no row is passed its own") {
    StateConfig config;
    config.passed = 0.5;
    config.gaussian = 0.2;
    Index counts[6] = {};
    std::set<std::vector<Index>> orders;
    for (Index step = 1; step < 400; ++step) {
      const auto rows = row_starts(config, 7, step, 8, 8);
      const auto fewer = row_starts(config, 7, step, 5, 8);
      std::vector<Index> sources;
      for (Index r = 0; r < 8; ++r) {
        const RowStart& row = rows[static_cast<std::size_t>(r)];
        ++counts[static_cast<std::size_t>(row.mode)];
        CHECK((row.source >= 0) == (row.mode == Start::kPassed));
        CHECK(row.source != r);
        if (r < 5) {
          CHECK(fewer[static_cast<std::size_t>(r)].mode == row.mode);
          CHECK(fewer[static_cast<std::size_t>(r)].source == row.source);
        }
      }
      config.passed = 0.8;
      for (const RowStart& row : row_starts(config, 7, step, 8, 8)) {
        if (row.source >= 0) {
          sources.push_back(row.source);
        }
      }
      CHECK(std::set(sources.begin(), sources.end()).size() == sources.size());
      orders.insert(sources);
      config.passed = 0.5;
    }
    CHECK(orders.size() > 300);
    const double all = 399 * 8;
    CHECK(std::abs(static_cast<double>(counts[0]) / all - 0.3) < 0.04);
    CHECK(std::abs(static_cast<double>(counts[1]) / all - 0.2) < 0.04);
    CHECK(std::abs(static_cast<double>(counts[3]) / all - 0.5) < 0.04);
    for (const RowStart& row : row_starts(config, 7, 3, 4, 1)) {
      CHECK(row.source == -1);  // one row would go on with its own
    }
  }

  TEST_CASE("state: probabilities, words and what does not fit") {
    const Scratch s;
    const auto solo = solo_communicator();
    CHECK(config_of(s, "passed").state.passed == 1);
    CHECK(config_of(s, "{passed: 0.25}").state.zero_share() == 0.75);
    CHECK(config_of(s, "{gaussian: 0.1, std: 1, passed: 0.2, tbptt: 0.7}").state.zero_share() <
          1e-9);
    const auto fault = [&](const std::string& state, const std::string& more = "",
                           const std::string& model = kHybrid) {
      return test::message([&] {
        const RunConfig config = config_of(s, state, more, model);
        Trainer(config, 0, 3, "", *solo);
      });
    };
    const auto says = [](const std::string& text, const std::string& part) {
      INFO(text);
      CHECK(text.find(part) != std::string::npos);
    };
    says(fault("{zero: 0.5, passed: 0.4}"), "the probabilities add up to 0.9, 1 is expected");
    says(fault("{passed: 0.7, tbptt: 0.4}"), "add up to 1.1");
    says(fault("gaussian"), "write state: {gaussian: 1, std: 0.1}");
    says(fault("{gaussian: 1}"), "state.std: this key is required");
    says(fault("carry"), "write state: tbptt");
    says(fault("past"), "one of zero, fitted, passed, tbptt, learned");
    says(fault("{tbptt: 1, segments: 2, back: 3}"), "back is 3, there are 2 segments");
    says(fault("{tbptt: 1, segments: 5}"), "'T24' has rows of 24 tokens");
    RunConfig alone = config_of(s, "passed");
    alone.batch = 1;
    says(test::message([&] { Trainer(alone, 0, 3, "", *solo); }),
         "needs a batch of at least 2 rows");
    const RunConfig both = config_of(s, "{tbptt: 0.5, passed: 0.5}");
    run_ranks(2, [&](Communicator& comm) {
      const std::string refused = test::message([&] { Trainer(both, 0, 3, "", comm); });
      CHECK(test::says(refused, "passed beside tbptt keeps keys and values on one rank only"));
    });
    const std::string full = "layers: [{name: attention, heads: 1, head_dim: 8}]";
    says(fault("{zero: 1, segments: 2}", "", full), "blocks.0.mixer.");
    says(fault("{zero: 1, segments: 2}", "", full), "give attention a window");
    CHECK(fault("{tbptt: 1, segments: 2, back: 1}", "", full) == "nothing thrown");
    says(fault("{zero: 1, segments: 2}", "", std::string(kHybrid) + ", recompute: true"),
         "leave recompute out");
    const std::string both_ways = "layers: [{name: bidirectional, of: {name: gla, heads: 2}}]";
    for (const char* const mode : {"tbptt", "passed", "{zero: 1, segments: 2}"}) {
      says(fault(mode, "", both_ways), "reads from the last token too");
    }
    CHECK(fault("learned", "", both_ways) == "nothing thrown");
  }

  TEST_CASE("state: configs that runs have left behind say reset and carry") {
    const Scratch s;
    const std::string text = dump_yaml(config_of(s, "zero"));
    const auto old = [&](const std::string& word) {
      const std::size_t at = text.find("\nstate:") + 1;
      std::size_t end = text.find('\n', at);
      while (text[end + 1] == ' ') {
        end = text.find('\n', end + 1);
      }
      return text.substr(0, at) + "state: " + word + text.substr(end);
    };
    CHECK(stored_config(old("reset"), "old").state.zero_share() == 1);
    CHECK(stored_config(old("carry"), "old").state.tbptt == 1);
    CHECK(test::says(test::message([&] { read_config_text<RunConfig>(old("carry"), "new"); }),
                     "write state: tbptt"));
  }

  TEST_CASE("state: a device, with recorded steps or without, has the processor's bits") {
    const Scratch s;
    const auto solo = solo_communicator();
    std::uint64_t seed = 200;
    for (const char* const mode : kModes) {
      for (const char* const more : {"", "accumulate: 2\n"}) {
        CAPTURE(mode);
        CAPTURE(more);
        const RunConfig config = config_of(s, mode, more);
        Trainer here(config, 0, 3, "", *solo);
        const double loss = here.steps(12);
        StandIn device(++seed), other(++seed);
        Trainer there(config, 0, 3, "", *solo, device);
        CHECK(there.steps(12) == loss);
        CHECK(there.train_step().replays() > 4);
        CHECK(values_of(there) == values_of(here));
        RunConfig plain = config;
        plain.graphs = false;
        Trainer eager(plain, 0, 3, "", *solo, other);
        CHECK(eager.steps(12) == loss);
        CHECK(values_of(eager) == values_of(here));
      }
    }
  }

  TEST_CASE("state: ranks and pieces give the losses of one rank") {
    const Scratch s;
    const auto solo = solo_communicator();
    for (const char* const mode : kModes) {
      CAPTURE(mode);
      const RunConfig config = config_of(s, mode, "", on_ranks(mode));
      Trainer reference(config, 0, 3, "", *solo);
      const std::vector<double> losses = losses_of(reference, 8);
      const std::vector<double> values = values_of(reference);
      for (const int pieces : {2, 3, 6}) {
        const RunConfig cut =
            config_of(s, mode, "accumulate: " + std::to_string(pieces) + "\n", on_ranks(mode));
        Trainer t(cut, 0, 3, "", *solo);
        check_near(losses_of(t, 8), losses, 1e-5);
      }
      for (const int ranks : {2, 4}) {
        std::mutex mutex;
        run_ranks(ranks, [&](Communicator& comm) {
          Trainer t(config, 0, 3, "", comm);
          const std::vector<double> mine = losses_of(t, 8);
          const std::lock_guard lock(mutex);
          check_near(mine, losses, 1e-5);
        });
      }
    }
  }

  TEST_CASE("state: ranks on devices have the bits of ranks on processors") {
    const Scratch s;
    for (const char* const mode : {"passed", "{tbptt: 0.6, passed: 0.4, segments: 2}",
                                   "{fitted: 0.7, fit_every: 3}", "learned"}) {
      CAPTURE(mode);
      const RunConfig config =
          config_of(s, mode, "", "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}]");
      std::vector<std::vector<double>> here(2), there(2);
      run_ranks(2, [&](Communicator& comm) {
        Trainer t(config, 0, 3, "", comm);
        t.steps(9);
        here[static_cast<std::size_t>(comm.rank())] = values_of(t);
      });
      run_ranks(2, [&](Communicator& comm) {
        StandIn device(330 + static_cast<std::uint64_t>(comm.rank()));
        device.run_by_itself();
        Trainer t(config, 0, 3, "", comm, device);
        t.steps(9);
        CHECK(t.train_step().replays() > 2);
        there[static_cast<std::size_t>(comm.rank())] = values_of(t);
      });
      CHECK(here[0] == here[1]);
      CHECK(there == here);
    }
  }

  TEST_CASE("state: a run that goes on has the bits of an undisturbed one, on other ranks too") {
    const Scratch s;
    const auto solo = solo_communicator();
    for (const char* const mode : kModes) {
      CAPTURE(mode);
      const RunConfig config = config_of(s, mode, "", on_ranks(mode));
      Trainer whole(config, 0, 3, "", *solo);
      const std::vector<double> losses = losses_of(whole, 9);
      for (const int at : {4, 7}) {
        std::filesystem::remove_all(s.path + "/run");
        {
          Trainer first(config, 0, 3, s.path + "/run", *solo);
          losses_of(first, at);
          first.save();
        }
        Trainer then(config, 0, 3, s.path + "/run", *solo);
        then.resume({}, std::nullopt);
        CHECK(losses_of(then, 9 - at) == std::vector<double>(losses.begin() + at, losses.end()));
        CHECK(values_of(then) == values_of(whole));
      }
      // Three ranks go on from one, and one from three.
      std::mutex mutex;
      run_ranks(3, [&](Communicator& comm) {
        Trainer t(config, 0, 3, s.path + "/run", comm);
        t.resume({}, std::nullopt);
        const std::vector<double> mine = losses_of(t, 1);
        t.save();
        const std::lock_guard lock(mutex);
        check_near(mine, {losses[7]}, 1e-5);
      });
      Trainer last(config, 0, 3, s.path + "/run", *solo);
      last.resume({}, std::nullopt);
      check_near(losses_of(last, 1), {losses[8]}, 1e-5);
    }
  }

  TEST_CASE("state: ranks that keep shards have the losses of one rank") {
    const Scratch s;
    const auto solo = solo_communicator();
    for (const char* const mode : {"passed", "learned", "{tbptt: 1, segments: 4}",
                                   "{learned: 0.5, tbptt: 0.5, segments: 2}"}) {
      const RunConfig plain = config_of(s, mode);
      Trainer reference(plain, 0, 3, "", *solo);
      const std::vector<double> losses = losses_of(reference, 6);
      for (const Shard shard : {Shard::kOptimizer, Shard::kParameters}) {
        CAPTURE(mode);
        RunConfig config = config_of(s, mode);
        config.mesh.shard = shard;
        std::mutex mutex;
        run_ranks(2, [&](Communicator& comm) {
          Trainer t(config, 0, 3, "", comm);
          const std::vector<double> mine = losses_of(t, 6);
          const std::lock_guard lock(mutex);
          check_near(mine, losses, 1e-5);
        });
      }
    }
  }

  TEST_CASE("state: weights of another run go on under any mode") {
    const Scratch s;
    const auto solo = solo_communicator();
    const RunConfig base = config_of(s, "zero");
    Trainer first(base, 0, 3, s.path + "/base", *solo);
    first.steps(3);
    first.save();
    const std::string from = s.path + "/base/checkpoints/step_000000003.h5";
    double zero = 0;
    for (const char* const mode : kModes) {
      CAPTURE(mode);
      RunConfig config = config_of(s, mode);
      config.models[0].init.from = from;
      Trainer t(config, 0, 5, "", *solo);
      if (std::string(mode) == "zero") {
        zero = t.step();
        continue;
      }
      // The first update has no states before it, and its windows are those of `zero`.
      const double loss = t.step();
      if (!config.state.streams() && !config.state.noise()) {
        CHECK(loss == doctest::Approx(zero).epsilon(1e-6));
      }
      t.steps(2);
      CHECK(std::isfinite(t.step()));
    }
  }

  TEST_CASE("state: rows that grow have the processor's bits on a device, and after a resume") {
    const Scratch s;
    const auto solo = solo_communicator();
    for (const char* const mode : {"zero", "passed", "{tbptt: 1, segments: 4}", "learned"}) {
      CAPTURE(mode);
      const RunConfig config = read_config_text<RunConfig>(
          dump_yaml(config_of(s, mode)), "text",
          {"task.length=12", "task.max_length=48", "task.grow={at: [4, 8]}"});
      Trainer whole(config, 0, 3, "", *solo);
      const std::vector<double> losses = losses_of(whole, 12);
      CHECK(whole.tokens_done() == 6 * (4 * 12 + 4 * 24 + 4 * 48));
      StandIn device(600);
      Trainer there(config, 0, 3, "", *solo, device);
      CHECK(there.steps(12) == losses.back());
      CHECK(there.train_step().replays() > 2);
      CHECK(values_of(there) == values_of(whole));
      std::filesystem::remove_all(s.path + "/run");
      {
        Trainer first(config, 0, 3, s.path + "/run", *solo);
        losses_of(first, 7);
        first.save();
      }
      Trainer then(config, 0, 3, s.path + "/run", *solo);
      then.resume({}, std::nullopt);
      CHECK(losses_of(then, 5) == std::vector<double>(losses.begin() + 7, losses.end()));
      CHECK(values_of(then) == values_of(whole));
    }
  }
}
