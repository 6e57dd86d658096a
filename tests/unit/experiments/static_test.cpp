// Packed documents, carried states, bad values and decoding on a device that the host cannot touch,
// recorded and replayed, have the bits of the processor.
#include <doctest/doctest.h>

#include <fstream>

#include "autograd/tape.h"
#include "core/comm/comm.h"
#include "core/config/yaml.h"
#include "core/ops/embedding/embedding.h"
#include "core/ops/token_shift/token_shift.h"
#include "core/tensor/context.h"
#include "core/tensor/graph.h"
#include "core/tensor/step_inputs.h"
#include "experiments/decoder.h"
#include "experiments/trainer.h"
#include "layers/stretch_inputs.h"
#include "optim/optimizer.h"
#include "optim/step.h"
#include "tests/support/draw.h"
#include "tests/support/errors.h"
#include "tests/support/stand_in.h"
#include "tests/support/text_folder.h"

using namespace ls;
using namespace ls::experiments;
using test::StandIn;

namespace {

/// A model under AdamW whose step reads buffers at fixed places and looks at no element: packed
/// documents, others in every step, through which states are carried; told as such a step is, or in
/// the common way.
struct DocumentStep {
  static constexpr Index kRows = 2, kTokens = 12, kClasses = 11, kDocuments = 8;

  DocumentStep(const std::string& model, Device& device, bool told)
      : config(read_config_text<layers::ModelConfig>("{width: 16, name: m, " + model + "}")),
        model(config, {.vocab_in = kClasses, .classes = kClasses}, 5),
        rule(Component<optim::Optimizer>("adamw").make()),
        values(optim::step_values(device)),
        inputs(device, 2),
        tokens(inputs.add({kRows, kTokens}, DType::kI64)),
        labels(inputs.add({kRows, kTokens}, DType::kI64)),
        count(inputs.add({}, DType::kF64)),
        rate(inputs.add({}, DType::kF64)),
        stretch(inputs, kRows, kTokens, kDocuments),
        told(told) {
    this->model.parameters().to(device);
    start_carrying();
    for (const ag::Parameter& p : this->model.parameters().items()) {
      const auto zeros = [&] { return Tensor::zeros(p.var.shape(), p.var.dtype(), device); };
      states.push_back({zeros(), zeros()});
    }
  }
  void give(int step) {
    test::Draw draw("document step " + std::to_string(step));
    inputs.next(tokens).copy_(draw.integers({kRows, kTokens}, 0, kClasses));
    inputs.next(labels).copy_(draw.integers({kRows, kTokens}, 0, kClasses));
    inputs.next(labels).slice(1, 0, step).fill_(-100);
    inputs.next(count).fill_(static_cast<double>(kRows * (kTokens - step)));
    inputs.next(rate).fill_(0.1 / (1 + step));
    carried.position = seen;
    documents = {{step % 3, 5 + step},
                 step % 2 ? std::vector<Index>() : std::vector<Index>{3, 4, 9}};
    const layers::StretchPlace place{.documents = documents, .seen = seen};
    stretch.give(place);
    seen = layers::Stretch(kRows, kTokens, place).seen_after();
    inputs.send();
  }
  /// From states of a whole stretch, all zero: windows are full of rows that nobody sees.
  void start_carrying() {
    const ag::NoGrad no_grad;
    layers::SeqContext first(kRows, kTokens, {.keep_states = true});
    model.hidden({inputs.buffer(tokens), {}}, first);
    for (const auto& [path, slot] : first.outgoing().slots) {
      Tensor zeros = slot.value.value().clone();
      zeros.zero_();
      carried.slots.emplace(path, layers::StateSlot{ag::Var(zeros), slot.part});
    }
    seen.assign(kRows, 0);
  }
  void run() {
    ag::ParameterSet& parameters = model.parameters();
    parameters.clear_grads();
    ag::Tape tape;
    layers::SeqContext seq(kRows, kTokens,
                           {.documents = told ? nullptr : &documents,
                            .incoming = &carried,
                            .told = told ? &stretch.tensors() : nullptr,
                            .keep_states = true});
    const layers::Model::Loss loss =
        model.loss(model.hidden({inputs.buffer(tokens), {}}, seq), inputs.buffer(labels));
    optim::add_loss(values, loss.sum.value(), inputs.buffer(count));
    const Tensor& sum = loss.sum.value();
    tape.backward(loss.sum, Tensor::full(sum.shape(), sum.dtype(), 1, sum.device()));
    optim::UpdateTargets targets{{}, states};
    for (ag::Parameter& p : parameters.items()) {
      const Tensor& grad = p.var.grad();
      targets.params.push_back(
          {p.var.mutable_value(),
           grad.defined() ? grad.contiguous()
                          : Tensor::zeros(p.var.shape(), p.var.dtype(), p.var.value().device()),
           p.decay});
    }
    optim::value_slot(values, optim::StepValue::kRate).copy_(inputs.buffer(rate));
    optim::update_all(*rule, std::move(targets), values, 0.5);
    if (!told) {
      carried = seq.outgoing().detached();
      return;
    }
    for (auto& [path, slot] : carried.slots) {
      slot.value.mutable_value().copy_(seq.outgoing().slots.at(path).value.value());
    }
  }
  std::vector<double> last_states() const {
    std::vector<double> all;
    for (const auto& [path, slot] : carried.slots) {
      const auto v = slot.value.value().to_vector<double>();
      all.insert(all.end(), v.begin(), v.end());
    }
    return all;
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
  layers::StretchInputs stretch;
  bool told;
  layers::DocumentStarts documents;
  layers::ModelState carried;
  std::vector<Index> seen;
};

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("a step of packed documents is recorded once and replayed with other documents") {
    std::uint64_t seed = 60;
    for (const char* const mixer :
         {"{name: gated_deltanet, heads: 1, head_dim: 8}", "{name: lstm}", "{name: gru}",
          "{name: attention, heads: 2, head_dim: 8, window: 6}", "{name: retnet, heads: 1}",
          "{name: mlstm, heads: 1}", "{name: rwkv6, head_dim: 8}"}) {
      CAPTURE(mixer);
      const std::string model = fmt::format("layers: [{}]", mixer);
      StandIn device(++seed);
      DocumentStep given(model, cpu(), false), here(model, cpu(), true), eager(model, device, true),
          replayed(model, device, true);
      Stream& stream = device.default_stream();
      Graph graph(stream, graph_memory(device), [&] { replayed.run(); });
      const auto step = [&](int n) {
        for (DocumentStep* const s : {&given, &here, &eager, &replayed}) {
          s->give(n);
        }
        given.run();
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
      // In the common way a cache has no more rows than are seen, which other sums may follow.
      const std::vector<double> usual = given.contents();
      REQUIRE(usual.size() == expected.size());
      for (std::size_t i = 0; i < usual.size(); ++i) {
        CHECK(usual[i] == doctest::Approx(expected[i]).epsilon(1e-5));
      }
      CHECK(eager.contents() == expected);
      CHECK(replayed.contents() == expected);
      CHECK(eager.last_states() == here.last_states());
      CHECK(replayed.last_states() == here.last_states());
      check_error_flag(stream);
    }
    DocumentStep crowded("layers: [{name: lstm}]", cpu(), true);
    CHECK(test::says(test::message([&] {
                       crowded.stretch.give({.documents = {{1, 2, 3, 4, 5, 6, 7, 8}, {}}});
                     }),
                     "10 documents where there is room for 8"));
  }

  TEST_CASE("a trainer replays steps of packed documents with the processor's bits") {
    // Short texts between long ones: some batches have more documents than those before.
    const test::TextFolder texts(4000);
    for (int d = 100; d < 160; ++d) {
      std::ofstream(texts.path + "/text/1a" + std::to_string(d) + ".txt") << std::string(90, 'x');
    }
    std::uint64_t seed = 90;
    for (const char* const more : {"", "state: tbptt\n"}) {
      CAPTURE(more);
      const RunConfig config = read_config_text<RunConfig>(
          std::string("name: run\nsteps: 20\nbatch: 4\nlr: 0.05\n") + more +
          "task: {name: bytes, path: " + texts.path +
          "/text, length: 700, test_windows: 1, split: tail, valid_share: 0.2}\n"
          "models: [{width: 16, name: m, layers: [{name: gated_deltanet, heads: 1, "
          "head_dim: 8}, {name: lstm}]}]\n");
      const auto solo = solo_communicator();
      StandIn device(++seed);
      Trainer here(config, 0, 3, "", *solo), there(config, 0, 3, "", *solo, device);
      CHECK(there.steps(14) == here.steps(14));
      CHECK(there.train_step().replays() > 6);
      for (std::size_t i = 0; i < here.model().parameters().items().size(); ++i) {
        CHECK(there.model().parameters().items()[i].var.value().to_vector<double>() ==
              here.model().parameters().items()[i].var.value().to_vector<double>());
      }
    }
  }

  TEST_CASE("bad values on a device raise its error flag, and nothing else is read") {
    StandIn device(3);
    const Tensor ids = Tensor::from<std::int64_t>({0, 7, -1}).to(device);
    const Tensor table = Tensor::full({4, 5}, DType::kF32, 2).to(device);
    const Tensor rows = call_op<ops::Embedding>({.weight = table, .ids = ids}, {}).y;
    CHECK(rows.to_vector<double>() == std::vector<double>(15, 0));
    CHECK(
        test::says(test::message([&] { check_error_flag(device.default_stream()); }),
                   "embedding: ids must lie in 0 .. 3: the value 7 at position 1 is not allowed"));
    const Tensor x = Tensor::full({1, 6, 3}, DType::kF32, 1).to(device);
    call_op<ops::TokenShift>({.x = x, .offsets = Tensor::from<std::int64_t>({0, 9}).to(device)});
    CHECK(test::says(test::message([&] { check_error_flag(device.default_stream()); }),
                     "token_shift: offsets ascend from 0 to 6"));
    check_error_flag(device.default_stream());
    CHECK(test::says(test::message([&] {
                       call_op<ops::Embedding>({.weight = table.to(cpu()), .ids = ids.to(cpu())},
                                               {});
                     }),
                     "the value 7 at position 1 is not allowed"));
  }

  TEST_CASE("decoding is recorded and replayed with the processor's bits") {
    constexpr Index kRows = 2, kTokens = 90, kClasses = 11, kPrompt = 5;
    test::Draw draw("decoding on a device");
    const Tensor tokens = draw.integers({kRows, kTokens}, 0, kClasses);
    std::uint64_t seed = 80;
    for (const char* const mixers :
         {"{name: gated_deltanet, heads: 1, head_dim: 8}, {name: attention, heads: 2}",
          "{name: attention, heads: 2, window: 9}, {name: lstm}", "{name: rwkv6, head_dim: 8}",
          "{name: mlstm, heads: 1}, {name: retnet, heads: 1}"}) {
      CAPTURE(mixers);
      const auto config =
          read_config_text<layers::ModelConfig>(fmt::format("{{width: 16, layers: [{}]}}", mixers));
      StandIn device(++seed);
      const layers::ModelInterface io{.vocab_in = kClasses, .classes = kClasses};
      layers::Model here(config, io, 5), there(config, io, 5);
      there.parameters().to(device);
      Decoder on_host(here, kRows), on_device(there, kRows);
      on_device.reserve(kTokens - 10);  // too few: enlarged once
      CHECK(on_device.feed(tokens.slice(1, 0, kPrompt)).to_vector<double>() ==
            on_host.feed(tokens.slice(1, 0, kPrompt)).to_vector<double>());
      DeviceCounts warm;
      Index reserved = 0;
      for (Index t = kPrompt; t < kTokens; ++t) {
        if (t == 20) {
          warm = device.counts();
          reserved = device.reserved_bytes();
        }
        if (t == kTokens - 12) {
          CHECK(device.counts().host_waits - warm.host_waits == t - 20);  // for the scores
          CHECK(device.reserved_bytes() == reserved);
        }
        const Tensor one = tokens.slice(1, t, t + 1).contiguous();
        CHECK(on_device.feed(one).to_vector<double>() == on_host.feed(one).to_vector<double>());
      }
      CHECK(on_device.replays() > kTokens / 2);
    }
  }

  TEST_CASE("decoding that cannot be recorded goes on with single launches and the same bits") {
    constexpr Index kTokens = 30, kClasses = 11, kPrompt = 5;
    test::Draw draw("decoding without graphs");
    const Tensor tokens = draw.integers({1, kTokens}, 0, kClasses);
    const auto config = read_config_text<layers::ModelConfig>(
        "{width: 16, layers: [{name: gated_deltanet, heads: 1, head_dim: 8},"
        " {name: attention, heads: 2}, {name: lstm}]}");
    const layers::ModelInterface io{.vocab_in = kClasses, .classes = kClasses};
    for (const int fails_at : {-1, 0, 25}) {
      CAPTURE(fails_at);
      StandIn device(90);
      device.fail_captures_at(fails_at);
      layers::Model here(config, io, 5), there(config, io, 5);
      there.parameters().to(device);
      Decoder on_host(here), on_device(there, 1, fails_at >= 0);
      for (Index t = 0; t < kTokens; t = std::max(kPrompt, t + 1)) {
        const Tensor piece = tokens.slice(1, t, std::max(kPrompt, t + 1)).contiguous();
        CHECK(on_device.feed(piece).to_vector<double>() == on_host.feed(piece).to_vector<double>());
      }
      CHECK(on_device.replays() == 0);
    }
  }
}
