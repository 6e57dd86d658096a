// Whole runs on a device that the host cannot touch have the bits of those on the processor.
#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "autograd/tape.h"
#include "core/comm/thread_comm.h"
#include "core/tensor/context.h"
#include "core/tensor/graph.h"
#include "core/tensor/step_inputs.h"
#include "experiments/checkpoint.h"
#include "experiments/decoder.h"
#include "experiments/evaluate.h"
#include "experiments/trainer.h"
#include "optim/step.h"
#include "tests/support/draw.h"
#include "tests/support/stand_in.h"
#include "tests/support/text_folder.h"

using namespace ls;
using namespace ls::experiments;
using test::StandIn;

namespace {

/// Texts that every run here trains on.
struct Scratch : test::TextFolder {
  Scratch() : TextFolder(4000) {}
};

RunConfig config_of(const Scratch& s, const std::string& model, const std::string& more,
                    const std::vector<std::string>& overrides = {}) {
  return read_config_text<RunConfig>(
      "name: run\nsteps: 4\nbatch: 4\nlr: 0.05\nclip: 0.5\ntask: {name: bytes, path: " + s.path +
          "/text, length: 24, test_windows: 2}\nmodels: [{width: 16, name: m, " + model + "}]\n" +
          more,
      "text", overrides);
}

std::vector<double> values_of(Trainer& t) {
  std::vector<double> all;
  for (const ag::Parameter& p : t.model().parameters().items()) {
    const auto v = p.var.value().to_vector<double>();
    all.insert(all.end(), v.begin(), v.end());
  }
  return all;
}

std::vector<double> after(const RunConfig& config, Device& device, Index updates) {
  const auto solo = solo_communicator();
  Trainer t(config, 0, 3, "", *solo, device);
  std::vector<double> all = {t.steps(updates)};
  const std::vector<double> values = values_of(t);
  all.insert(all.end(), values.begin(), values.end());
  return all;
}

/// What is said of a run whose numbers leave the floats, "" of one whose do not.
std::string failure(const RunConfig& config, Communicator& comm, Device& device) {
  Trainer t(config, 0, 3, "", comm, device);
  try {
    t.run();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

/// Losses of three updates, what validation measures, and the parameters.
std::vector<double> run_of(const RunConfig& config, Device& device) {
  const auto solo = solo_communicator();
  Trainer t(config, 0, 3, "", *solo, device);
  std::vector<double> all;
  for (int i = 0; i < 3; ++i) {
    all.push_back(t.step());
  }
  const std::optional<Evaluation> valid = t.evaluate(data::Split::kValid);
  for (const auto& [name, value] : valid->slices.front().metrics.values) {
    all.push_back(value);
  }
  const std::vector<double> values = values_of(t);
  all.insert(all.end(), values.begin(), values.end());
  return all;
}

/// A model under AdamW whose step reads buffers at fixed places and looks at no element.
struct StaticStep {
  static constexpr Index kRows = 2, kTokens = 12, kClasses = 11;

  StaticStep(const std::string& model, Device& device)
      : config(read_config_text<layers::ModelConfig>("{width: 16, name: m, " + model + "}")),
        model(config, {.vocab_in = kClasses, .classes = kClasses}, 5),
        rule(Component<optim::Optimizer>("adamw").make()),
        values(optim::step_values(device)),
        inputs(device, 2),
        tokens(inputs.add({kRows, kTokens}, DType::kI64)),
        labels(inputs.add({kRows, kTokens}, DType::kI64)),
        count(inputs.add({}, DType::kF64)),
        rate(inputs.add({}, DType::kF64)),
        seq(kRows, kTokens, {}) {
    this->model.parameters().to(device);
    seq.set_device(device);
    seq.positions();
    for (const ag::Parameter& p : this->model.parameters().items()) {
      const auto zeros = [&] { return Tensor::zeros(p.var.shape(), p.var.dtype(), device); };
      states.push_back({zeros(), zeros()});
    }
  }
  void give(int step) {
    test::Draw draw("static step " + std::to_string(step));
    inputs.next(tokens).copy_(draw.integers({kRows, kTokens}, 0, kClasses));
    inputs.next(labels).copy_(draw.integers({kRows, kTokens}, 0, kClasses));
    inputs.next(labels).slice(1, 0, step).fill_(-100);
    inputs.next(count).fill_(static_cast<double>(kRows * (kTokens - step)));
    inputs.next(rate).fill_(0.1 / (1 + step));
    inputs.send();
  }
  void run() {
    ag::ParameterSet& parameters = model.parameters();
    parameters.clear_grads();
    ag::Tape tape;
    const layers::Model::Loss loss =
        model.loss(model.hidden({inputs.buffer(tokens), {}}, seq), inputs.buffer(labels));
    optim::add_loss(values, loss.sum.value(), inputs.buffer(count));
    tape.backward(loss.sum);
    optim::UpdateTargets targets{{}, states};
    for (ag::Parameter& p : parameters.items()) {
      targets.params.push_back({p.var.mutable_value(), p.var.grad().contiguous(), p.decay});
    }
    optim::value_slot(values, optim::StepValue::kRate).copy_(inputs.buffer(rate));
    optim::update_all(*rule, std::move(targets), values, 0.5);
  }
  std::vector<double> contents() const {
    std::vector<double> all = values.to_vector<double>();
    for (const ag::Parameter& p : model.parameters().items()) {
      const auto v = p.var.value().to_vector<double>();
      all.insert(all.end(), v.begin(), v.end());
    }
    return all;
  }

  layers::ModelConfig config;
  layers::Model model;
  std::unique_ptr<optim::Optimizer> rule;
  std::vector<std::vector<Tensor>> states;
  Tensor values;
  StepInputs inputs;
  std::size_t tokens, labels, count, rate;
  layers::SeqContext seq;
};

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("a device trains and evaluates with the processor's bits") {
    const Scratch s;
    std::uint64_t seed = 0;
    for (const std::string mixer : {"{name: gated_deltanet, heads: 1, head_dim: 8}",
                                    "{name: attention, heads: 2, head_dim: 8, window: 20}",
                                    "{name: retnet, heads: 1}", "{name: lstm}"}) {
      for (const char* const more :
           {"", "state: tbptt\n", "accumulate: 2\n", "optimizer: {name: sgd, momentum: 0.9}\n"}) {
        CAPTURE(mixer);
        CAPTURE(more);
        const RunConfig config = config_of(s, "layers: [" + mixer + "]", more);
        StandIn device(++seed);
        CHECK(run_of(config, device) == run_of(config, cpu()));
      }
    }
  }

  TEST_CASE("a device trains in bf16, with recomputation and tied embeddings") {
    const Scratch s;
    for (const char* const model :
         {"dtype: bf16, layers: [{name: gated_deltanet, heads: 1, head_dim: 8}]",
          "recompute: true, tie_embeddings: true, layers: [{name: attention, heads: 2}]",
          "layers: [{name: bidirectional, of: {name: gla, heads: 2}}]"}) {
      CAPTURE(model);
      const RunConfig config = config_of(s, model, "");
      StandIn device(7);
      CHECK(run_of(config, device) == run_of(config, cpu()));
    }
  }

  TEST_CASE("a step is recorded once and replayed with the processor's bits, waiting for nothing") {
    std::uint64_t seed = 20;
    for (const char* const model :
         {"layers: [{name: gated_deltanet, heads: 1, head_dim: 8}]",
          "dtype: bf16, layers: [{name: attention, heads: 2, head_dim: 8}, {name: lstm}]"}) {
      CAPTURE(model);
      StandIn device(++seed);
      StaticStep here(model, cpu()), eager(model, device), replayed(model, device);
      Stream& stream = device.default_stream();
      Graph graph(stream, graph_memory(device), [&] { replayed.run(); });
      const auto step = [&](int n) {
        for (StaticStep* const s : {&here, &eager, &replayed}) {
          s->give(n);
        }
        here.run();
        eager.run();
        graph.replay(stream);
      };
      step(0);
      step(1);
      const DeviceCounts warm = device.counts();
      const Index reserved = device.reserved_bytes();
      for (int n = 2; n < 6; ++n) {
        step(n);
      }
      CHECK(device.counts().host_waits == warm.host_waits);
      CHECK(device.reserved_bytes() == reserved);
      const std::vector<double> expected = here.contents();
      CHECK(expected[static_cast<std::size_t>(optim::StepValue::kUpdates)] == 6);
      CHECK(eager.contents() == expected);
      CHECK(replayed.contents() == expected);
    }
  }

  TEST_CASE("a trainer replays its step, ahead of the device, and waits for nothing") {
    const Scratch s;
    std::uint64_t seed = 60;
    const std::string delta = "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}]";
    const std::pair<std::string, std::string> runs[] = {
        {delta, ""},
        {delta, "accumulate: 4\n"},
        {"dtype: bf16, layers: [{name: attention, heads: 2, head_dim: 8}, {name: lstm}]", ""},
        {"remake: products, remake_products: 1, dtype: bf16, " + delta, ""},
        {"recompute: true, tie_embeddings: true, " + delta,
         "optimizer: {name: sgd, momentum: 0.9}\n"},
    };
    for (const auto& [model, more] : runs) {
      CAPTURE(model);
      CAPTURE(more);
      const RunConfig config = config_of(s, model, more, {"steps=20"});
      const std::vector<double> expected = after(config, cpu(), 12);
      StandIn device(++seed);
      {
        const auto solo = solo_communicator();
        Trainer t(config, 0, 3, "", *solo, device);
        t.steps(6);
        const DeviceCounts warm = device.counts();
        std::vector<double> found = {t.steps(6)};
        CHECK(device.counts().host_waits == warm.host_waits);
        CHECK(device.counts().growths == warm.growths);
        CHECK(t.train_step().replays() == 10);  // not the first, nor one with a boundary inside
        const std::vector<double> values = values_of(t);
        found.insert(found.end(), values.begin(), values.end());
        CHECK(found == expected);
      }
      RunConfig plain = config;
      plain.graphs = false;
      StandIn other(++seed);
      CHECK(after(plain, other, 12) == expected);
      StandIn refusing(++seed);
      refusing.fail_captures_at(40);
      CHECK(after(config, refusing, 12) == expected);
    }
  }

  TEST_CASE("memory of a step: the first leaves no cache beside the recording's, remaking less") {
    const Scratch s;
    std::uint64_t seed = 80;
    const auto bytes = [&](const std::string& remake, bool graphs) {
      RunConfig config = config_of(
          s, "remake: " + remake + ", layers: [{repeat: 3, of: {name: gated_deltanet, heads: 1}}]",
          "", {"task.length=256", "batch=16"});
      config.graphs = graphs;
      StandIn device(++seed);
      const auto solo = solo_communicator();
      Trainer t(config, 0, 3, "", *solo, device);
      t.steps(3);
      CHECK((t.train_step().replays() > 0) == graphs);
      return static_cast<double>(t.train_step().device_bytes());
    };
    const double plain = bytes("none", false), recorded = bytes("none", true);
    const double outputs = bytes("outputs", true), products = bytes("products", true);
    CHECK(recorded < 1.3 * plain);
    CHECK(outputs < 0.9 * recorded);
    CHECK(products < 0.9 * outputs);
  }

  TEST_CASE("updates of carried keys and values are replayed while their window is full") {
    const Scratch s;
    const auto solo = solo_communicator();
    for (const char* const window : {"4", "20"}) {
      CAPTURE(window);
      const RunConfig config =
          config_of(s,
                    std::string("layers: [{name: attention, heads: 2, head_dim: 8, window: ") +
                        window + "}, {name: gated_deltanet, heads: 1, head_dim: 8}]",
                    "state: tbptt\n", {"steps=40"});
      const std::vector<double> expected = after(config, cpu(), 30);
      StandIn device(140);
      Trainer t(config, 0, 3, "", *solo, device);
      std::vector<double> found = {t.steps(30)};
      CHECK(t.train_step().replays() > 10);
      const std::vector<double> values = values_of(t);
      found.insert(found.end(), values.begin(), values.end());
      CHECK(found == expected);
    }
  }

  TEST_CASE("a parameter that others write between two updates is the one that is used") {
    const Scratch s;
    const auto solo = solo_communicator();
    const RunConfig config =
        config_of(s, "dtype: bf16, layers: [{name: gated_deltanet, heads: 1, head_dim: 8}]", "",
                  {"steps=20"});
    const auto train = [&](Device& device) {
      Trainer t(config, 0, 3, "", *solo, device);
      std::vector<double> all = {t.steps(4)};
      for (ag::Parameter& p : t.model().parameters().items()) {
        p.var.mutable_value().mul_(0.5);
      }
      all.push_back(t.steps(1));
      all.push_back(t.steps(3));
      const std::vector<double> values = values_of(t);
      all.insert(all.end(), values.begin(), values.end());
      return all;
    };
    StandIn device(70);
    CHECK(train(device) == train(cpu()));
  }

  TEST_CASE("a trainer records a step for each shape of batch") {
    const Scratch s;
    const RunConfig config = read_config_text<RunConfig>(
        "name: run\nsteps: 40\nbatch: 4\nlr: 0.05\n"
        "task: {name: parity, length: 3, max_length: 6}\n"
        "models: [{width: 16, name: m, layers: [{name: retnet, heads: 1}]}]\n");
    StandIn device(80);
    const auto solo = solo_communicator();
    Trainer here(config, 0, 3, "", *solo), there(config, 0, 3, "", *solo, device);
    CHECK(there.steps(40) == here.steps(40));
    CHECK(there.train_step().replays() == 36);
    CHECK(values_of(there) == values_of(here));
  }

  TEST_CASE("a device tells late what the processor tells at once") {
    const Scratch s;
    const auto solo = solo_communicator();
    const auto told = [&](const std::string& more, Device& device) {
      const std::string folder = s.path + "/run" + std::to_string(device.index()) +
                                 (device.host_accessible() ? "here" : "there");
      std::filesystem::remove_all(folder);
      const RunConfig config = config_of(
          s, "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}]",
          "log_every: 2\neval: {every: 4}\ncheckpoint: {every: 3}\n" + more, {"steps=11"});
      Trainer t(config, 0, 3, folder, *solo, device);
      const RunResult r = t.run();
      std::vector<std::string> all = {fmt::format("{} {}", r.steps, r.train_loss)};
      std::ifstream lines(folder + "/metrics.jsonl");
      for (std::string line; std::getline(lines, line);) {
        auto j = nlohmann::ordered_json::parse(line);
        for (const char* const changes :
             {"tokens_per_s", "seconds", "data_wait_share", "memory_bytes"}) {
          j.erase(changes);
        }
        all.push_back(j.dump());
      }
      for (const std::string& path : list_checkpoints(folder + "/checkpoints")) {
        const LoadedCheckpoint c = load_checkpoint(path);
        for (const auto& [name, tensor] : c.parameters) {
          all.push_back(fmt::format("{} {} {}", c.data.step, name,
                                    fmt::join(tensor.to_vector<double>(), " ")));
        }
      }
      return all;
    };
    for (const char* const more : {"", "state: tbptt\n", "graphs: false\n"}) {
      CAPTURE(more);
      StandIn device(90);
      CHECK(told(more, device) == told(more, cpu()));
    }
  }

  TEST_CASE("a device stops where the processor stops, for the reason that it gives") {
    const Scratch s;
    const auto solo = solo_communicator();
    for (const char* const more : {"", "state: tbptt\n", "graphs: false\n", "accumulate: 2\n"}) {
      CAPTURE(more);
      const RunConfig config =
          config_of(s, "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}]", more,
                    {"steps=30", "lr=1e37", "clip=0"});
      const std::string expected = failure(config, *solo, cpu());
      CHECK(expected.find(" is not finite: ") != std::string::npos);
      StandIn device(100);
      CHECK(failure(config, *solo, device) == expected);
    }
  }

  TEST_CASE("ranks on devices have the bits of ranks on processors, and stop together") {
    const Scratch s;
    const std::vector<std::string> stays = {"steps=6"}, leaves = {"steps=30", "lr=1e37", "clip=0"};
    for (const auto& overrides : {stays, leaves}) {
      const RunConfig config =
          config_of(s, "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}]", "", overrides);
      std::vector<std::string> here(2), there(2);
      const auto train = [&](std::vector<std::string>& out, Communicator& comm, Device& device) {
        std::string& to = out[static_cast<std::size_t>(comm.rank())];
        try {
          Trainer t(config, 0, 3, "", comm, device);
          const RunResult r = t.run();
          to = fmt::format("{} {}", r.train_loss, fmt::join(values_of(t), " "));
        } catch (const Error& e) {
          to = e.what();
        }
      };
      run_ranks(2, [&](Communicator& comm) { train(here, comm, cpu()); });
      run_ranks(2, [&](Communicator& comm) {
        StandIn device(110 + static_cast<std::uint64_t>(comm.rank()));
        device.run_by_itself();
        train(there, comm, device);
      });
      CHECK(here[0] == here[1]);
      CHECK(there == here);
    }
  }

  TEST_CASE("ranks on devices sum in the order of streams: the host waits for nothing") {
    const Scratch s;
    for (const char* const more : {"", "graphs: false\n", "accumulate: 2\n"}) {
      CAPTURE(more);
      const RunConfig config = config_of(
          s, "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}]", more, {"steps=20"});
      std::vector<std::vector<double>> here(2), there(2);
      run_ranks(2, [&](Communicator& comm) {
        Trainer t(config, 0, 3, "", comm);
        t.steps(12);
        here[static_cast<std::size_t>(comm.rank())] = values_of(t);
      });
      run_ranks(2, [&](Communicator& comm) {
        StandIn device(130 + static_cast<std::uint64_t>(comm.rank()));
        device.run_by_itself();
        Trainer t(config, 0, 3, "", comm, device);
        t.steps(6);
        const DeviceCounts warm = device.counts();
        t.steps(6);
        CHECK(device.counts().host_waits == warm.host_waits);
        CHECK(device.counts().growths == warm.growths);
        CHECK((t.train_step().replays() > 0) == config.graphs);
        there[static_cast<std::size_t>(comm.rank())] = values_of(t);
      });
      CHECK(here[0] == here[1]);
      CHECK(there == here);
    }
  }

  TEST_CASE("a bad value that a kernel has found stops the run and is told") {
    const Scratch s;
    StandIn device(120);
    const auto solo = solo_communicator();
    const RunConfig config =
        config_of(s, "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}]", "", {"steps=20"});
    Trainer t(config, 0, 3, "", *solo, device);
    t.steps(4);
    const std::vector<double> before = values_of(t);
    const ExecutionContext ctx = current_context(device);
    auto* const flag = static_cast<ErrorFlag*>(device.kernel_address(ctx.error_flag));
    ctx.stream.launch([flag] { raise_error(flag, error_source("embedding: ids"), 7, 99); }, {});
    std::string message;
    try {
      t.steps(5);
    } catch (const Error& e) {
      message = e.what();
    }
    CHECK(message.find("the loss of update 5 of model m, seed 3, is not finite: embedding: ids: "
                       "the value 99 at position 7 is not allowed") == 0);
    CHECK(values_of(t) == before);
  }

  TEST_CASE("packed documents, carried states and decoding have the processor's bits") {
    constexpr Index kRows = 2, kTokens = 12, kClasses = 11;
    const layers::DocumentStarts documents = {{0, 5}, {3, 4, 9}};
    test::Draw draw("documents on a device");
    const Tensor tokens = draw.integers({kRows, kTokens}, 0, kClasses);
    const Tensor labels = draw.integers({kRows, kTokens}, 0, kClasses);
    const auto results = [&](const std::string& mixer, Device& device) {
      const auto config =
          read_config_text<layers::ModelConfig>("{width: 16, layers: [" + mixer + "]}");
      layers::Model model(config, {.vocab_in = kClasses, .classes = kClasses}, 5);
      model.parameters().to(device);
      std::vector<double> all;
      const auto add = [&](const Tensor& t) {
        const auto v = t.to_vector<double>();
        all.insert(all.end(), v.begin(), v.end());
      };
      layers::ModelState carried;
      for (int stretch = 0; stretch < 2; ++stretch) {
        ag::Tape tape;
        layers::SeqContext seq(kRows, kTokens,
                               {.documents = stretch == 0 ? &documents : nullptr,
                                .incoming = stretch == 0 ? nullptr : &carried,
                                .keep_states = true});
        const layers::Model::Loss loss =
            model.loss(model.hidden({tokens.to(device), {}}, seq), labels.to(device));
        tape.backward(loss.sum);
        add(loss.per_token);
        carried = seq.outgoing().detached();
      }
      for (const ag::Parameter& p : model.parameters().items()) {
        add(p.var.grad());
      }
      Decoder decoder(model, kRows);
      add(decoder.feed(tokens.slice(1, 0, 7).to(device)));
      for (Index t = 7; t < kTokens; ++t) {
        add(decoder.feed(tokens.slice(1, t, t + 1).to(device)));
      }
      return all;
    };
    std::uint64_t seed = 40;
    for (const char* const mixer :
         {"{name: gated_deltanet, heads: 1, head_dim: 8}", "{name: attention, heads: 2}",
          "{name: lstm}", "{name: retnet, heads: 1}"}) {
      CAPTURE(mixer);
      StandIn device(++seed);
      CHECK(results(mixer, device) == results(mixer, cpu()));
    }
  }

  TEST_CASE("a run goes on from a checkpoint on another device, bit for bit") {
    const Scratch s;
    const auto solo = solo_communicator();
    const RunConfig config =
        config_of(s, "layers: [{name: gated_deltanet, heads: 1, head_dim: 8}]", "state: tbptt\n");
    StandIn device(5);
    Trainer whole(config, 0, 3, "", *solo);
    Trainer first(config, 0, 3, s.path + "/run", *solo, device);
    for (int i = 0; i < 2; ++i) {
      CHECK(first.step() == whole.step());
    }
    first.save();
    Trainer on_device(config, 0, 3, s.path + "/run", *solo, device);
    Trainer on_processor(config, 0, 3, s.path + "/run", *solo);
    for (Trainer* const t : {&on_device, &on_processor}) {
      t->resume({}, std::nullopt);
    }
    for (int i = 0; i < 2; ++i) {
      const double loss = whole.step();
      CHECK(on_device.step() == loss);
      CHECK(on_processor.step() == loss);
    }
    CHECK(values_of(on_device) == values_of(whole));
    CHECK(values_of(on_processor) == values_of(whole));
  }
}
