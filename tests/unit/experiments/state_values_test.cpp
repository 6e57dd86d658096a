// What each mode of `state:` gives rows to start from, and what gradients go through.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "autograd/functional.h"
#include "autograd/tape.h"
#include "experiments/model_io.h"
#include "tests/support/draw.h"
#include "tests/support/errors.h"
#include "tests/support/stand_in.h"
#include "tests/support/state_runs.h"

using namespace ls;
using namespace ls::test::states;

namespace {

const std::string kDelta = "layers: [{name: gated_deltanet, heads: 2, head_dim: 8}, {name: lstm}]";

/// Losses [rows,T] of tokens.
Tensor losses(layers::Model& model, const Tensor& tokens, const Tensor& labels,
              const layers::SeqOptions& options) {
  const ag::NoGrad no_grad;
  layers::SeqContext seq(tokens.size(0), tokens.size(1), options);
  return model.loss(model.hidden({tokens, {}}, seq), labels).per_token;
}

double sum_of(const Tensor& t) {
  double sum = 0;
  for (const double x : t.to_vector<double>()) {
    sum += x;
  }
  return sum;
}

/// One whose updates leave the weights alone.
RunConfig still(RunConfig config) {
  config.lr = 1e-30;
  return config;
}

/// All that go on from a state, but those that break laws on purpose.
std::vector<std::string> mixers() {
  const auto& registry = layers::TokenMixer::registry();
  std::vector<std::string> names = registry.names();
  std::erase_if(names, [&](const std::string& name) {
    return name.starts_with("wrong_") || !registry.traits(name).causal;
  });
  return names;
}

/// A model of one layer as small as the mixer goes.
std::string small_model(const std::string& name) {
  const layers::MixerTraits traits = layers::TokenMixer::registry().traits(name);
  std::string model = "{name: " + name;
  for (const auto& [field, value] : traits.small) {
    const std::string with = fmt::format("{}, {}: {}", model, field, value);
    if (test::message([&] { read_config_text<layers::ModelConfig>("layers: [" + with + "}]"); }) ==
        "nothing thrown") {
      model = with;
    }
  }
  return fmt::format("layers: [{}}}], dtype: f64, width: {}", model, traits.width);
}

RunConfig of_mixer(const Scratch& s, const std::string& model, const std::string& state,
                   Index length = 24) {
  return read_config_text<RunConfig>(fmt::format(
      "name: run\nsteps: 9\nbatch: 3\nlr: 1\nclip: 0\noptimizer: {{name: sgd, momentum: 0}}\n"
      "task: {{name: bytes, path: {}/text, length: {}, test_windows: 4, split: tail, "
      "valid_share: 0.1}}\nmodels: [{{name: m, {}}}]\nstate: {}\n",
      s.path, length, model, state));
}

bool grows(layers::Model& model) {
  for (const auto& [path, slot] : model.state_after(1).slots) {
    if (slot.grows) {
      return true;
    }
  }
  return false;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("state: a passed row goes on from another row as if that were its own text") {
    const Scratch s;
    const auto solo = solo_communicator();
    Parts p(still(config_of(s, "passed", "", kDelta)), *solo);
    const data::Batch first = p.batcher.make(0), second = p.batcher.make(1);
    p.run();
    const double loss = p.run();
    double expected = 0;
    const auto rows = row_starts(p.part.config.state, 3, 1, 6, 6);
    for (Index r = 0; r < 6; ++r) {
      const Index from = rows[static_cast<std::size_t>(r)].source;
      REQUIRE(from >= 0);
      const auto both = [&](const Tensor& a, const Tensor& b) {
        return ag::concat({ag::Var(a.slice(0, from, from + 1)), ag::Var(b.slice(0, r, r + 1))}, 1)
            .value();
      };
      // The text of one behind that of the other, without a border between them.
      layers::DocumentStarts documents(1);
      if (!first.documents.empty()) {
        documents[0] = first.documents[static_cast<std::size_t>(from)];
      }
      if (!second.documents.empty()) {
        for (const Index start : second.documents[static_cast<std::size_t>(r)]) {
          if (start > 0) {
            documents[0].push_back(24 + start);
          }
        }
      }
      const Tensor all = losses(*p.part.model, both(first.tokens, second.tokens),
                                both(first.labels, second.labels), {.documents = &documents});
      expected += sum_of(all.slice(1, 24, 48));
    }
    CHECK(loss == doctest::Approx(expected / static_cast<double>(second.labelled)).epsilon(1e-6));
  }

  TEST_CASE("state: keys and values are not passed, and none leak beside rows that go on") {
    const Scratch s;
    const auto solo = solo_communicator();
    const std::string windows =
        "layers: [{repeat: 2, of: {name: attention, heads: 2, head_dim: 8, window: 6}}]";
    // Alone, passed states of attention are none.
    const RunConfig zero = still(config_of(s, "zero", "", windows));
    const RunConfig passed = still(config_of(s, "passed", "", windows));
    Trainer a(zero, 0, 3, "", *solo), b(passed, 0, 3, "", *solo);
    for (int i = 0; i < 4; ++i) {
      CHECK(b.step() == doctest::Approx(a.step()).epsilon(1e-6));
    }
    // Two layers of a window see 10 tokens back, of the row's own text.
    Parts p(still(config_of(s, "{tbptt: 0.5, passed: 0.5}", "", windows)), *solo);
    data::Batch before = p.batcher.make(0);
    p.run();
    for (Index step = 1; step < 4; ++step) {
      const data::Batch now = p.batcher.make(step);
      const auto rows = row_starts(p.part.config.state, 3, step, 6, 6);
      double expected = 0;
      for (Index r = 0; r < 6; ++r) {
        const auto at = static_cast<std::size_t>(r);
        const auto both = [&](const Tensor& x, const Tensor& y) {
          return ag::concat({ag::Var(x.slice(0, r, r + 1)), ag::Var(y.slice(0, r, r + 1))}, 1)
              .value();
        };
        const auto starts = [&](const data::Batch& batch) {
          return batch.documents.empty() ? std::vector<Index>() : batch.documents[at];
        };
        layers::DocumentStarts documents = {starts(before)};
        const std::vector<Index> later = starts(now);
        if (rows[at].mode != Start::kTbptt && (later.empty() || later[0] > 0)) {
          documents[0].push_back(24);
        }
        for (const Index start : later) {
          documents[0].push_back(24 + start);
        }
        const Tensor all = losses(*p.part.model, both(before.tokens, now.tokens),
                                  both(before.labels, now.labels), {.documents = &documents});
        expected += sum_of(all.slice(1, 24, 48));
      }
      CHECK(p.run() == doctest::Approx(expected / static_cast<double>(now.labelled)).epsilon(1e-6));
      before = now;
    }
  }

  TEST_CASE("state: the front of a row is where its state counts, a border inside is zero") {
    // Rows of one document each, which begins at their front.
    Scratch s;
    const auto solo = solo_communicator();
    Parts p(config_of(s, "{gaussian: 1, std: 1}", "", kDelta), *solo);
    data::Batch batch = p.batcher.make(0);
    batch.documents = layers::DocumentStarts(6, std::vector<Index>{0, 9});
    FirstStates states(p.part);
    const data::Batch pieces[] = {batch};
    const std::vector<PieceStarts> starts = states.plan(batch, pieces, p.state);
    REQUIRE(starts.size() == 1);
    CHECK(starts[0].place.documents == layers::DocumentStarts(6, std::vector<Index>{9}));
    double square = 0, count = 0;
    for (const auto& [path, noise] : starts[0].noise) {
      for (const double x : noise.to_vector<double>()) {
        square += x * x;
        ++count;
      }
    }
    CHECK(count > 600);
    CHECK(square / count == doctest::Approx(1).epsilon(0.2));
    // What lies before the border changes nothing behind it.
    const Tensor index = Tensor::from(starts[0].entries);
    layers::ModelState from = FirstStates::of(states.base({}), index, starts[0].noise);
    from.position.assign(6, 0);
    const layers::SeqOptions noisy{.documents = &starts[0].place.documents,
                                   .incoming = &from,
                                   .begun = &starts[0].place.begun};
    const layers::SeqOptions clean{.documents = &starts[0].place.documents};
    const Tensor a = losses(*p.part.model, batch.tokens, batch.labels, noisy);
    const Tensor b = losses(*p.part.model, batch.tokens, batch.labels, clean);
    CHECK(a.slice(1, 0, 9).to_vector<double>() != b.slice(1, 0, 9).to_vector<double>());
    CHECK(a.slice(1, 9, 24).to_vector<double>() == b.slice(1, 9, 24).to_vector<double>());
  }

  TEST_CASE("state: a fit has the mean and the variance of each head's last states") {
    const Scratch s;
    const auto solo = solo_communicator();
    Parts p(config_of(s, "{fitted: 1, fit_every: 5}", "", kDelta), *solo);
    p.run();
    const layers::ModelState last = p.state.carried;
    p.run();
    const std::string slot = "blocks.0.mixer.scan.S";
    REQUIRE(p.state.fit.contains(slot));
    const Tensor value = last.slots.at(slot).value.value();  // [6,2,8,8]
    for (Index h = 0; h < 2; ++h) {
      const std::vector<double> x = value.slice(1, h, h + 1).to_vector<double>();
      double mean = 0, square = 0;
      for (const double v : x) {
        mean += v / static_cast<double>(x.size());
      }
      for (const double v : x) {
        square += (v - mean) * (v - mean) / static_cast<double>(x.size());
      }
      const StateFit& fit = p.state.fit.at(slot);
      REQUIRE(fit.mean.size() == 2);
      CHECK(fit.mean[static_cast<std::size_t>(h)] == doctest::Approx(mean).epsilon(1e-9));
      CHECK(fit.std[static_cast<std::size_t>(h)] ==
            doctest::Approx(std::sqrt(square)).epsilon(1e-6));
    }
    const auto before = p.state.fit.at(slot).mean;
    for (int i = 2; i < 6; ++i) {
      p.run();
      CHECK(p.state.fit.at(slot).mean == before);
    }
    p.run();
    CHECK(p.state.fit.at(slot).mean != before);
  }

  TEST_CASE("state: learned states of every mixer have the gradient of finite differences") {
    constexpr Index kRows = 2, kTokens = 7, kClasses = 9;
    test::Draw draw("learned states");
    const Tensor tokens = draw.integers({kRows, kTokens}, 0, kClasses);
    const Tensor labels = draw.integers({kRows, kTokens}, 0, kClasses);
    const layers::DocumentStarts documents = {{3}, {0, 5}};
    for (const std::string& name : mixers()) {
      for (const bool packed : {false, true}) {
        CAPTURE(name);
        CAPTURE(packed);
        layers::Model model(read_config_text<layers::ModelConfig>("{" + small_model(name) + "}"),
                            {.vocab_in = kClasses, .classes = kClasses}, 5);
        model.learn_first_states();
        const layers::SeqOptions options{.documents = packed ? &documents : nullptr};
        std::vector<ag::Parameter*> states;
        for (ag::Parameter& p : model.parameters().items()) {
          if (p.name.starts_with("first_states.")) {
            states.push_back(&p);
            CHECK(!p.decay);
            // Away from zero, where some states have a corner.
            p.var.mutable_value().copy_(draw.normal(p.var.shape(), 0.3).to(DType::kF64));
          }
        }
        CHECK(states.empty() == (name == "attention"));
        {
          ag::Tape tape;
          layers::SeqContext seq(kRows, kTokens, options);
          tape.backward(model.loss(model.hidden({tokens, {}}, seq), labels).sum);
        }
        const auto loss = [&] {
          const ag::NoGrad no_grad;
          layers::SeqContext seq(kRows, kTokens, options);
          return model.loss(model.hidden({tokens, {}}, seq), labels).sum.value().item();
        };
        for (ag::Parameter* const p : states) {
          CAPTURE(p->name);
          REQUIRE(p->var.grad().defined());
          const std::vector<double> grad = p->var.grad().to_vector<double>();
          Tensor& value = p->var.mutable_value();
          const Index n = value.numel();
          for (Index i = 0; i < n; i += 1 + n / 5) {
            double& x = value.data<double>()[i];
            const double was = x, h = 1e-5;
            x = was + h;
            value.bump_version();
            const double up = loss();
            x = was - h;
            value.bump_version();
            const double down = loss();
            x = was;
            value.bump_version();
            const double found = grad[static_cast<std::size_t>(i)];
            CHECK(found == doctest::Approx((up - down) / (2 * h)).epsilon(1e-5).scale(1));
          }
        }
      }
    }
  }

  TEST_CASE("state: learned states start as zeros, move, and are used in evaluation") {
    const Scratch s;
    const auto solo = solo_communicator();
    const RunConfig zero = config_of(s, "zero"), learned = config_of(s, "learned");
    Trainer a(zero, 0, 3, "", *solo), b(learned, 0, 3, "", *solo);
    CHECK(a.step() == b.step());
    b.steps(5);
    const ag::Parameter* const p =
        b.model().parameters().find("first_states.blocks.0.mixer.scan.S");
    REQUIRE(p != nullptr);
    double most = 0;
    for (const double x : p->var.value().to_vector<double>()) {
      most = std::max(most, std::abs(x));
    }
    CHECK(most > 1e-4);
    const auto loss = [&] {
      return b.evaluate(data::Split::kValid)->slices.front().metrics.at("bpb");
    };
    const double with = loss();
    ag::Var(p->var).mutable_value().zero_();
    CHECK(loss() != with);
  }

  TEST_CASE("segments: gradients of every mixer are those of whole rows, f64") {
    const Scratch s;
    const auto solo = solo_communicator();
    int checked = 0;
    for (const std::string& name : mixers()) {
      CAPTURE(name);
      for (std::string model : {small_model(name)}) {
        if (name == "attention") {
          model =
              "layers: [{name: attention, heads: 2, head_dim: 4, window: 9}], dtype: f64, "
              "width: 16";
        }
        const auto after = [&](const std::string& state) {
          const RunConfig config = of_mixer(s, model, state);
          Trainer t(config, 0, 3, "", *solo);
          t.steps(2);
          return values_of(t);
        };
        for (const std::string mode : {"zero", "tbptt"}) {
          CAPTURE(mode);
          const std::vector<double> whole = after(mode);
          const auto differs = [&](const std::string& more) {
            const std::vector<double> cut = after("{" + mode + ": 1, " + more + "}");
            REQUIRE(cut.size() == whole.size());
            double most = 0;
            for (std::size_t i = 0; i < cut.size(); ++i) {
              most = std::max(most, std::abs(cut[i] - whole[i]) / (1 + std::abs(whole[i])));
            }
            return most;
          };
          CHECK(differs("segments: 2") < 1e-12);
          CHECK(differs("segments: 6") < 1e-12);
          CHECK(differs("segments: 6, back: 6") < 1e-12);
          CHECK(differs("segments: 6, back: 2") > 1e-9);
          CHECK(differs("segments: 6, back: 1") > 1e-9);
        }
        ++checked;
      }
    }
    CHECK(checked >= 10);
  }

  TEST_CASE("segments: a full cache is refused") {
    const Scratch s;
    const auto solo = solo_communicator();
    for (const std::string& name : mixers()) {
      layers::Model model(read_config_text<layers::ModelConfig>("{" + small_model(name) + "}"),
                          {.vocab_in = 9, .classes = 9}, 5);
      const std::string refused = test::message([&] {
        const RunConfig config = of_mixer(s, small_model(name), "{zero: 1, segments: 2}");
        Trainer(config, 0, 3, "", *solo);
      });
      CAPTURE(name);
      CAPTURE(refused);
      CHECK((refused != "nothing thrown") == grows(model));
    }
  }

  TEST_CASE("segments: memory is that of one segment and a state for each") {
    const Scratch s;
    const test::TextFolder texts(4000);
    const auto solo = solo_communicator();
    const auto bytes = [&](Index length, Index segments) {
      RunConfig config =
          config_of(s, fmt::format("{{zero: 1, segments: {}}}", segments), "graphs: false\n",
                    "layers: [{repeat: 2, of: {name: gated_deltanet, heads: 1, head_dim: 8}}]");
      config = read_config_text<RunConfig>(
          dump_yaml(config), "text",
          {fmt::format("task.length={}", length), "task.valid_share=0.2",
           "task.path=" + texts.path + "/text"});
      test::StandIn device(500);
      Trainer t(config, 0, 3, "", *solo, device);
      t.steps(2);
      return static_cast<double>(t.train_step().device_bytes());
    };
    const double one = bytes(64, 1), whole = bytes(512, 1), cut = bytes(512, 8);
    MESSAGE("64 tokens: " << one << " bytes, 512: " << whole << ", 512 in 8 segments: " << cut);
    CHECK(whole > 4 * one);
    CHECK(cut < 1.6 * one);
  }
}
