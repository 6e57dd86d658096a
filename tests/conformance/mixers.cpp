// The laws of tests/support/mixer_laws.h for every registered mixer in every setting, and what the
// model skeleton owes: states that are measured, parameter groups, first values, bf16 beside f32.
#include <doctest/doctest.h>

#include <cmath>

#include "autograd/tape.h"
#include "layers/model.h"
#include "tests/support/mixer_laws.h"
#include "tests/support/poison.h"

using namespace ls;
using namespace ls::layers;
using namespace ls::test;

namespace {

constexpr Index kVocab = 11;

Model make(const MixerCase& c, const std::string& dtype) {
  ModelConfig config = c.config;
  config.dtype = parse_enum<DType>(dtype);
  return Model(config, {.vocab_in = kVocab, .classes = kVocab}, 1);
}

struct Run {
  Tensor out;
  ModelState state;
};
Run forward(Model& m, Index rows, Index tokens) {
  const ag::NoGrad no_grad;
  std::vector<std::int64_t> ids;
  Rng rng(4, "tokens");
  for (Index i = 0; i < rows * tokens; ++i) {
    ids.push_back(rng.below(kVocab));
  }
  SeqContext seq(rows, tokens, {.keep_states = true});
  const ag::Var h = m.hidden({Tensor::from(ids, {rows, tokens}), {}}, seq);
  return {h.value(), seq.outgoing()};
}

/// Mean and standard deviation.
std::pair<double, double> moments(const Tensor& t) {
  double sum = 0, square = 0;
  const std::vector<double> x = t.to_vector<double>();
  for (const double v : x) {
    sum += v;
    square += v * v;
  }
  const auto n = static_cast<double>(x.size());
  return {sum / n, std::sqrt(square / n - sum / n * (sum / n))};
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("mixers: those that are promised are registered") {
    // Self-registration vanishes silently where objects do not reach the link.
    const std::vector<std::string> names = right_mixers();
    for (const char* name :
         {"attention", "linear_attn", "retnet", "simple_gla", "deltanet", "gated_deltanet", "lstm",
          "gla", "hgrn2", "mamba", "mamba2", "rwkv6"}) {
      CHECK_MESSAGE(std::count(names.begin(), names.end(), name) == 1, name);
    }
  }

  TEST_CASE("mixers: laws") {
    for (const MixerCase& c : mixer_cases()) {
      SUBCASE(c.name.c_str()) {
        const Poisoned poisoned;
        for (const char* dtype : {"f64", "f32"}) {
          for (const std::string& fault : check_mixer(c, dtype)) {
            FAIL_CHECK(fault);
          }
        }
        for (const std::string& violation : take_guard_violations()) {
          FAIL_CHECK(c.name << ": " << violation);
        }
      }
    }
  }

  TEST_CASE("mixers: each learns what only memory solves") {
    for (const MixerCase& c : mixer_cases()) {
      if (c.config.layers.size() == 1 && c.name == c.config.layers[0].name()) {
        SUBCASE(c.name.c_str()) {
          MixerCase trained = c;
          trained.config.channel.choose("swiglu");
          CHECK(learned_accuracy(trained) >= 0.99);
        }
      }
    }
  }

  TEST_CASE("mixers: bf16 stays near f32, parameters and states stay f32") {
    for (const MixerCase& c : mixer_cases()) {
      CAPTURE(c.name);
      Model a = make(c, "f32"), b = make(c, "bf16");
      const Run fa = forward(a, 2, 33), fb = forward(b, 2, 33);
      CHECK(fb.out.dtype() == DType::kBF16);
      double error = 0, size = 0;
      for (Index i = 0; i < fa.out.numel(); ++i) {
        error += std::pow(fa.out.slow_at(i) - fb.out.slow_at(i), 2);
        size += std::pow(fa.out.slow_at(i), 2);
      }
      // Each layer adds its own.
      CHECK(std::sqrt(error / size) <= 0.05 * static_cast<double>(c.config.layers.size()));
      for (const ag::Parameter& p : b.parameters().items()) {
        CHECK(p.var.dtype() == DType::kF32);
      }
      for (const auto& [name, slot] : fb.state.slots) {
        CAPTURE(name);
        CHECK((slot.part == StatePart::kKeyValue || slot.value.dtype() == DType::kF32));
      }
    }
  }

  TEST_CASE("mixers: state bytes are those of the buffers, constant for fixed states") {
    for (const MixerCase& c : mixer_cases()) {
      CAPTURE(c.name);
      Model m = make(c, "f32");
      Index bytes = 0;
      for (const auto& [name, slot] : forward(m, 1, 64).state.slots) {
        bytes += slot.value.value().bytes();
      }
      const StateBytes one = m.measure_state(1), some = m.measure_state(64),
                       many = m.measure_state(512);
      CHECK(some.total() == bytes);
      CHECK(many.matrix == some.matrix);
      CHECK(many.vector == some.vector);
      CHECK(many.conv == some.conv);
      CHECK(one.matrix + one.vector + one.conv == some.matrix + some.vector + some.conv);
    }
    const auto kv = [](const std::string& window, Index tokens) {
      const MixerCase c = mixer_case("kv",
                                     "layers: [{name: attention, heads: 4, kv_heads: 2, "
                                     "head_dim: 8, window: " +
                                         window + "}]");
      Model m = make(c, "f32");
      const StateBytes s = m.measure_state(tokens);
      CHECK(s.total() == s.kv);
      return s.kv;
    };
    const Index token = 2 * 2 * 8 * 4;  // key and value, two heads of eight f32
    CHECK(kv("null", 100) == 100 * token);
    CHECK(kv("1", 100) == 0);
    CHECK(kv("10", 5) == 5 * token);
    CHECK(kv("10", 9) == 9 * token);
    CHECK(kv("10", 1000) == 9 * token);
    CHECK(kv("2000", 1000) == 1000 * token);
  }

  TEST_CASE("mixers: a key-value state keeps no rows of documents that have ended") {
    const MixerCase c = mixer_case("kv", "layers: [{name: attention, heads: 2}]");
    Model m = make(c, "f32");
    const ag::NoGrad no_grad;
    ModelState state;
    for (int batch = 0; batch < 3; ++batch) {
      const DocumentStarts starts = {{2, 11}, {0, 5, 9}};
      SeqContext seq(
          2, 16,
          {.documents = &starts, .incoming = batch > 0 ? &state : nullptr, .keep_states = true});
      m.hidden({Tensor::zeros({2, 16}, DType::kI64), {}}, seq);
      state = seq.outgoing();
      for (const auto& [name, slot] : state.slots) {
        CHECK(slot.value.size(1) == 7);  // row 1 is in its seventh token
      }
    }
  }

  TEST_CASE("mixers: vectors are not decayed, some matrices are") {
    for (const MixerCase& c : mixer_cases()) {
      CAPTURE(c.name);
      Model m = make(c, "f32");
      Index decayed = 0;
      for (const ag::Parameter& p : m.parameters().items()) {
        CAPTURE(p.name);
        CHECK(!(p.decay && p.var.value().rank() < 2));
        decayed += p.decay && p.name.find(".mixer.") != std::string::npos ? 1 : 0;
      }
      CHECK(decayed > 0);
    }
  }

  TEST_CASE("model: first values") {
    ModelConfig config;
    config.width = 64;
    config.init_std = 0.05;
    config.layers = {Component<TokenMixer>("attention"), Component<TokenMixer>("gated_deltanet")};
    for (const NormKind norm : {NormKind::kRms, NormKind::kLayer}) {
      config.norm = norm;
      Model m(config, {.vocab_in = 300, .classes = 200}, 1);
      const auto value = [&](const char* name) {
        const ag::Parameter* const p = m.parameters().find(name);
        REQUIRE_MESSAGE(p, name);
        return p->var.value();
      };
      for (const char* name : {"embedding.weight", "head.weight", "blocks.0.mixer.qkv.weight",
                               "blocks.1.mixer.in.weight", "blocks.1.mixer.out.weight",
                               "blocks.0.channel.gate_up.weight", "blocks.0.channel.down.weight"}) {
        CAPTURE(name);
        const auto [mean, deviation] = moments(value(name));
        CHECK(std::abs(mean) < 0.002);
        CHECK(deviation == doctest::Approx(0.05).epsilon(0.03));
      }
      // Two blocks: divided by sqrt(2 * 2).
      CHECK(moments(value("blocks.0.mixer.out.weight")).second ==
            doctest::Approx(0.025).epsilon(0.05));
      for (const char* name : {"blocks.0.mixer_norm.weight", "blocks.0.channel_norm.weight",
                               "norm.weight", "blocks.1.mixer.out_norm.weight"}) {
        CHECK(moments(value(name)) == std::pair<double, double>(1, 0));
      }
      CHECK((m.parameters().find("norm.bias") != nullptr) == (config.norm == NormKind::kLayer));
      // Decay exp(-A softplus(x + dt)) with A in (0, 16] and softplus(dt) in [.001, .1].
      for (Index i = 0; i < 6; ++i) {
        const double a = std::exp(value("blocks.1.mixer.a_log").slow_at(i));
        const double dt = std::log1p(std::exp(value("blocks.1.mixer.dt_bias").slow_at(i)));
        CHECK((a >= 0.99e-4 && a <= 16));
        CHECK((dt >= 0.00099 && dt <= 0.1001));
      }
    }
    ModelConfig lstm;
    lstm.width = 64;
    lstm.layers = {Component<TokenMixer>("lstm")};
    Model m(lstm, {.vocab_in = 8, .classes = 8}, 1);
    const Tensor bias = m.parameters().find("blocks.0.mixer.in.bias")->var.value();
    CHECK(moments(bias.slice(0, 64, 128)) == std::pair<double, double>(1, 0));
    CHECK(moments(bias.slice(0, 128, 256)) == std::pair<double, double>(0, 0));
    for (const char* name : {"blocks.0.mixer.in.weight", "blocks.0.mixer.recurrent.weight"}) {
      const auto [mean, deviation] = moments(m.parameters().find(name)->var.value());
      CHECK(deviation == doctest::Approx(0.125 / std::sqrt(3.0)).epsilon(0.03));  // U(+-1/8)
    }
  }

  TEST_CASE("model: tied embeddings are one parameter, and need one vocabulary") {
    ModelConfig config;
    config.width = 8;
    config.layers = {Component<TokenMixer>("lstm")};
    const Model untied(config, {.vocab_in = 20, .classes = 20}, 1);
    config.tie_embeddings = true;
    const Model tied(config, {.vocab_in = 20, .classes = 20}, 1);
    CHECK(untied.parameters().count() - tied.parameters().count() == 20 * 8);
    CHECK_THROWS_WITH_AS(Model(config, {.vocab_in = 20, .classes = 21}, 1),
                         doctest::Contains("one vocabulary"), Error);
  }

  TEST_CASE("mixers: settings that do not fit are refused with what to change") {
    const std::pair<const char*, const char*> wrong[] = {
        {"{name: attention, heads: 3}", "3 heads do not divide width 16"},
        {"{name: attention, heads: 4, kv_heads: 3}", "kv_heads (3) must divide heads (4)"},
        {"{name: attention, heads: 16}", "position: none"},
        {"{name: linear_attn, heads: 3}", "change heads or expand_k"},
        {"{name: retnet, heads: 16}", "even key width"},
        {"{name: deltanet, heads: 4, expand_v: 0.3}", "expand_v"},
        {"{name: gated_deltanet, heads: 2, head_dim: 5, expand_v: 1.5}", "whole number"},
        {"{name: hgrn2, head_dim: 5}", "head_dim 5 does not divide width 16"},
        {"{name: rwkv6, head_dim: 64}", "head_dim 64 does not divide width 16"},
        {"{name: mamba2, head_dim: 64}", "no whole number of heads of 64"},
        {"{name: lstm, heads: 5}", "5 heads do not divide width 16"}};
    for (const auto& [layer, part] : wrong) {
      CAPTURE(layer);
      const MixerCase c = mixer_case("wrong", std::string("layers: [") + layer + "]");
      CHECK_THROWS_WITH_AS(make(c, "f32"), doctest::Contains(part), Error);
    }
    for (const char* layer : {"{name: linear_attn, feature_map: identity}",
                              "{name: linear_attn, feature_map: relu, eps: 0}",
                              "{name: hgrn2, head_dim: 4, lower_bound: 1}",
                              "{name: gated_deltanet, heads: 4, value_heads: 6}"}) {
      CHECK_THROWS_AS(mixer_case("wrong", std::string("layers: [") + layer + "]"), Error);
    }
    CHECK_THROWS_WITH_AS(mixer_case("wrong", "{layers: [gla], recompute: true, remake: outputs}"),
                         doctest::Contains("leave one of them out"), Error);
  }
}
