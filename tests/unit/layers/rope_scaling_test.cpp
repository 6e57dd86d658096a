// Rotary positions beyond the trained length: identities of the rules, caches, refusals.
#include <doctest/doctest.h>

#include <cmath>

#include "autograd/tape.h"
#include "core/config/yaml.h"
#include "layers/mixers/rope_scaling.h"
#include "layers/model.h"
#include "tests/support/errors.h"

namespace ls::layers {
namespace {

using test::message;
using test::says;

constexpr Index kOriginal = 8, kVocab = 13;
const char* const kLongRope =
    "{type: longrope, factor: 4, original_length: 8, short_factor: [1, 1, 1, 1], long_factor: "
    "[1, 1.5, 2, 4]}";

std::string scaling(const std::string& type, double factor) {
  const std::string rest = type == "linear" ? "" : ", original_length: 8";
  const std::string lists =
      type == "longrope" ? ", short_factor: [1, 1, 1, 1], long_factor: [1, 1, 1, 1]" : "";
  return fmt::format("{{type: {}, factor: {}{}{}}}", type, factor, rest, lists);
}

Model model_of(const std::string& rope_scaling, Index head_dim = 8) {
  return Model(
      read_config_text<ModelConfig>(fmt::format(
          "{{width: 16, dtype: f64, init_std: 0.5, layers: [{{name: attention, heads: 2, head_dim: "
          "{0}, rope_scaling: {1}}}, {{name: gla, heads: 2}}, {{name: attention, heads: 2, "
          "head_dim: {0}, window: 6, rope_scaling: {1}}}]}}",
          head_dim, rope_scaling)),
      {.vocab_in = kVocab, .classes = kVocab}, 5);
}

Tensor ids(Index tokens) {
  std::vector<std::int64_t> values;
  for (Index i = 0; i < 2 * tokens; ++i) {
    values.push_back((5 * i + i * i / 3) % kVocab);
  }
  return Tensor::from(values, {2, tokens});
}

/// Logits of ids(tokens), fed so many at once, of rows that have `length` in the end (0: untold).
Tensor logits(Model& model, Index tokens, Index at_once, Index length) {
  const ag::NoGrad no_grad;
  const Tensor all = ids(tokens);
  Tensor out = Tensor::empty({2, tokens, kVocab}, DType::kF64);
  ModelState state;
  for (Index t = 0; t < tokens; t += at_once) {
    const Index n = std::min(at_once, tokens - t);
    SeqContext seq(2, n, {.taken = &state, .length = length, .keep_states = true});
    const ag::Var h = model.hidden({all.slice(1, t, t + n).contiguous(), {}}, seq);
    out.slice(1, t, t + n).copy_(model.logits(h).value());
    state = std::move(seq.outgoing());
  }
  return out;
}

double difference(const Tensor& a, const Tensor& b) {
  double most = 0;
  for (Index i = 0; i < a.numel(); ++i) {
    most = std::max(most, std::abs(a.slow_at(i) - b.slow_at(i)));
  }
  return most;
}

std::vector<double> frequencies(const std::string& rope_scaling, Index tokens) {
  return ops::rope_inv_freq(
      read_config_text<RopeScalingConfig>(rope_scaling).rule(10000, 8, tokens));
}

TEST_SUITE("layers") {
  TEST_CASE("rope scaling: factor 1 is plain rope") {
    Model plain = model_of("{}");
    const Tensor want = logits(plain, 20, 20, 0);
    for (const std::string type : {"linear", "yarn", "llama3", "longrope"}) {
      Model scaled = model_of(scaling(type, 1)), larger = model_of(scaling(type, 4));
      CHECK_MESSAGE(difference(logits(scaled, 20, 20, 0), want) < 1e-12, type);
      CHECK_MESSAGE(difference(logits(larger, 20, 20, 0), want) > 1e-3, type);
    }
    // Of dynamic the factor says how fast the base grows once a sequence is longer than the
    // original; at 1 it still grows, by (L / original)^(d / (d - 2)).
    const auto one = frequencies(scaling("dynamic", 1), 2 * kOriginal);
    CHECK(one[3] == doctest::Approx(std::pow(10000 * std::pow(2, 8.0 / 6), -0.75)).epsilon(1e-12));
  }

  TEST_CASE("rope scaling: the attention factor scales queries and keys, so scores by its square") {
    // A head's scores are q.k / sqrt(d): with a factor m on cosine and sine they are m^2 as large,
    // as if frequencies alone were scaled and q were m^2 as long.
    const auto config = read_config_text<RopeScalingConfig>(scaling("yarn", 8));
    const double m = ops::rope_attention_factor(config.rule(10000, 8, 0));
    CHECK(m == doctest::Approx(0.1 * std::log(8.0) + 1).epsilon(1e-14));
    const Rotary by_rule("attention", config, 10000, 8);
    auto unit = config;
    unit.attention_factor = 1;
    const Rotary without("attention", unit, 10000, 8);
    SeqContext seq(2, 20, {});
    Tensor x = Tensor::empty({2, 20, 2, 8}, DType::kF64);
    for (Index i = 0; i < x.numel(); ++i) {
      x.data<double>()[i] = std::sin(static_cast<double>(i));
    }
    const ag::NoGrad no_grad;
    const Tensor scaled = by_rule(ag::Var(x), seq).value(), bare = without(ag::Var(x), seq).value();
    for (Index i = 0; i < x.numel(); ++i) {
      CHECK(scaled.slow_at(i) == doctest::Approx(m * bare.slow_at(i)).epsilon(1e-13));
    }
  }

  TEST_CASE(
      "rope scaling: up to the original length dynamic and longrope's short factors change "
      "nothing") {
    for (const Index tokens : {Index{1}, kOriginal}) {
      CHECK(frequencies(scaling("dynamic", 4), tokens) == frequencies("{}", tokens));
      CHECK(frequencies(kLongRope, tokens) == frequencies("{}", tokens));
    }
    const auto longer = frequencies(scaling("dynamic", 4), 2 * kOriginal);
    CHECK(longer[0] == 1);
    CHECK(longer[3] < frequencies("{}", 0)[3]);
    CHECK(frequencies(kLongRope, kOriginal + 1)[3] ==
          doctest::Approx(frequencies("{}", 0)[3] / 4).epsilon(1e-14));
    Model plain = model_of("{}"), dynamic = model_of(scaling("dynamic", 4));
    CHECK(difference(logits(plain, kOriginal, kOriginal, 0),
                     logits(dynamic, kOriginal, kOriginal, 0)) == 0);
    CHECK(difference(logits(plain, 9, 9, 0), logits(dynamic, 9, 9, 0)) > 1e-6);
  }

  TEST_CASE("rope scaling: decoding with a cache is the whole pass, at every length") {
    for (const std::string& rope : {scaling("linear", 4), scaling("dynamic", 4), scaling("yarn", 4),
                                    scaling("llama3", 4), std::string(kLongRope)}) {
      Model model = model_of(rope);
      for (const Index tokens : {Index{1}, kOriginal - 1, kOriginal, kOriginal + 1, Index{24}}) {
        const Tensor whole = logits(model, tokens, tokens, 0);
        for (const Index at_once : {Index{1}, Index{5}}) {
          CHECK_MESSAGE(difference(logits(model, tokens, at_once, tokens), whole) < 1e-11,
                        rope << ", " << tokens << " tokens, " << at_once << " at once");
        }
      }
    }
  }

  TEST_CASE("rope scaling: a cache does not outlive the frequencies that its keys were turned by") {
    Model dynamic = model_of(scaling("dynamic", 4));
    CHECK(difference(logits(dynamic, kOriginal, 1, 0), logits(dynamic, kOriginal, kOriginal, 0)) <
          1e-12);
    const std::string fault = message([&] { logits(dynamic, kOriginal + 1, 1, 0); });
    CHECK_MESSAGE(says(fault, "beyond original_length 8"), fault);
    CHECK(says(fault, "set rope_scaling.length"));
    // A length in the config holds for every sequence.
    Model fixed = model_of("{type: dynamic, factor: 4, original_length: 8, length: 24}");
    CHECK(difference(logits(fixed, 24, 1, 0), logits(dynamic, 24, 24, 0)) < 1e-11);
  }

  TEST_CASE("rope scaling: what does not fit is said") {
    const auto fault = [](const std::string& rope, Index dim = 8) {
      return message([&] { model_of(rope, dim); });
    };
    const std::vector<std::pair<std::string, const char*>> wrong = {
        {"{type: linear}", "factor: is needed"},
        {"{factor: 4}", "belongs to a type other than default"},
        {"{type: yarn, factor: 4}", "original_length: is needed"},
        {"{type: linear, factor: 0.5}", "factor"},
        {"{type: linear, factor: 4, original_length: 8}", "belongs to types dynamic, yarn"},
        {"{type: linear, factor: 4, beta_fast: 3}", "belongs to type yarn"},
        {"{type: yarn, factor: 4, original_length: 8, beta_fast: 1}", "must be above beta_slow"},
        {"{type: yarn, factor: 4, original_length: 8, mscale: 1}", "are given together"},
        {"{type: yarn, factor: 4, original_length: 8, length: 9}", "types dynamic and longrope"},
        {"{type: llama3, factor: 4, original_length: 8, high_freq_factor: 0.5}",
         "must be above low_freq_factor"},
        {"{type: longrope, factor: 4, original_length: 8, short_factor: [1], long_factor: [1]}",
         "rope_scaling.short_factor has 1 numbers; heads of 8 channels need 4"},
        {"{type: ntk, factor: 4}", "longrope"}};
    for (const auto& [rope, why] : wrong) {
      CHECK_MESSAGE(says(fault(rope), why), rope << ": " << fault(rope));
    }
    CHECK(says(fault(scaling("dynamic", 4), 2), "needs a head_dim above 2"));
    CHECK(says(message([] {
                 read_config_text<ModelConfig>(
                     "{layers: [{name: attention, position: none, rope_scaling: {type: linear, "
                     "factor: 2}}]}");
               }),
               "scales rotary positions"));
  }
}

}  // namespace
}  // namespace ls::layers
