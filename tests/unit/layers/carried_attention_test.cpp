// Carried keys and values: a row sees what its document has seen, however long the cache is.
#include <doctest/doctest.h>

#include <cmath>

#include "autograd/tape.h"
#include "core/config/yaml.h"
#include "layers/model.h"
#include "layers/scan/check_scan.h"
#include "layers/scan/scan.h"
#include "tests/support/errors.h"

namespace ls::layers {
namespace {

using test::message;
using test::says;

constexpr Index kRows = 2, kTokens = 16, kVocab = 11;

Tensor ids(Index rows, Index tokens, Index first) {
  std::vector<std::int64_t> values;
  for (Index i = 0; i < rows * tokens; ++i) {
    values.push_back((first + 7 * i + i * i) % kVocab);
  }
  return Tensor::from(values, {rows, tokens});
}

Model model_of(Index window) {
  return Model(read_config_text<ModelConfig>(fmt::format(
                   "width: 16\ndtype: f64\ninit_std: 0.4\nlayers: [{{repeat: 2, of: [{{name: "
                   "attention, heads: 2, window: {}}}]}}]\n",
                   window > 0 ? std::to_string(window) : "null")),
               {.vocab_in = kVocab, .classes = kVocab}, 3);
}

struct Passed {
  Tensor out;
  ModelState state;
};
Passed pass(Model& model, const Tensor& tokens, const ModelState* incoming,
            const DocumentStarts* documents = nullptr) {
  const ag::NoGrad no_grad;
  SeqContext seq(tokens.size(0), tokens.size(1),
                 {.documents = documents, .incoming = incoming, .keep_states = true});
  Tensor out = model.logits(model.hidden({tokens, {}}, seq)).value();
  return {out, seq.outgoing()};
}

double difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double most = 0;
  for (Index i = 0; i < a.numel(); ++i) {
    most = std::max(most, std::abs(a.slow_at(i) - b.slow_at(i)));
  }
  return most;
}

Index cached(const ModelState& state) {
  return state.slots.begin()->second.value.size(1);
}

TEST_SUITE("unit") {
  TEST_CASE("carried attention: rows that go on alone see their own document only") {
    for (const Index window : {0, 5, 40}) {
      CAPTURE(window);
      Model model = model_of(window);
      const Tensor tokens = ids(kRows, kTokens, 1), later = ids(1, 6, 4);
      const DocumentStarts documents = {{13}, {}};
      const ModelState state = pass(model, tokens, nullptr, &documents).state;
      for (const std::vector<Index>& rows : {std::vector<Index>{0}, {1}}) {
        const Index row = rows[0], begin = row == 0 ? 13 : 0;
        const ModelState carried = state.rows(rows);
        const Index most = window > 0 ? window - 1 : kTokens;
        CHECK(cached(carried) == std::min<Index>(kTokens - begin, most));
        const Passed got = pass(model, later, &carried);
        // The document alone, in one stretch.
        Tensor all = Tensor::empty({1, kTokens - begin + 6}, DType::kI64);
        all.slice(1, 0, kTokens - begin)
            .copy_(tokens.slice(0, row, row + 1).slice(1, begin, kTokens));
        all.slice(1, kTokens - begin, all.size(1)).copy_(later);
        const Tensor want =
            pass(model, all, nullptr).out.slice(1, kTokens - begin, kTokens - begin + 6);
        CHECK(difference(got.out, want) < 1e-12);
      }
    }
  }

  TEST_CASE("carried attention: rows without history see nothing of a cache") {
    Model model = model_of(0);
    const ModelState state = pass(model, ids(kRows, kTokens, 1), nullptr).state;
    const Tensor later = ids(kRows, 6, 4);
    const ModelState none = state.rows({-1, -1});
    CHECK(cached(none) == 0);
    const Tensor fresh = pass(model, later, nullptr).out;
    CHECK(difference(pass(model, later, &none).out, fresh) < 1e-12);
    // The same where somebody has left zeros there.
    ModelState zeros = state;
    zeros.position = {0, 0};
    CHECK(difference(pass(model, later, &zeros).out, fresh) < 1e-12);
    const ModelState mixed = state.rows({-1, 1});
    CHECK(cached(mixed) == kTokens);
    const Tensor out = pass(model, later, &mixed).out;
    CHECK(difference(out.slice(0, 0, 1), fresh.slice(0, 0, 1)) < 1e-12);
    CHECK(difference(out.slice(0, 1, 2), pass(model, later, &state).out.slice(0, 1, 2)) < 1e-12);
    CHECK(says(message([&] { state.rows({2}); }), "row 2 of states that have 2"));
  }

  TEST_CASE("carried attention: a cache holds what is seen") {
    Model model = model_of(0);
    const ModelState first = pass(model, ids(kRows, kTokens, 1), nullptr).state;
    const DocumentStarts both = {{2}, {4}};
    const Passed next = pass(model, ids(kRows, 6, 4), &first, &both);
    CHECK(cached(next.state) == 4);
    CHECK(next.state.position == std::vector<Index>{4, 2});
  }

  TEST_CASE("scans: what they name exists in their op") {
    const auto fault = [](auto&& change) {
      ScanInfo scan = *scan_registry().at("attention");
      change(scan);
      return message([&] { check_scan(scan, "test"); });
    };
    CHECK(fault([](ScanInfo&) {}) == "nothing thrown");
    CHECK(says(fault([](ScanInfo& s) { s.states[0].input = "nosuch"; }),
               "scan test: state k goes in through 'nosuch', which is no input of op attention"));
    CHECK(says(fault([](ScanInfo& s) { s.states[1].output = "nosuch"; }),
               "scan test: state v comes out of 'nosuch', which is no output of op attention"));
    CHECK(says(fault([](ScanInfo& s) { s.states.clear(); }), "it carries nothing"));
    CHECK(says(fault([](ScanInfo& s) { s.summarize = nullptr; }), "it needs .transition(...)"));
    const OpInfo undeclared;
    CHECK(says(fault([&](ScanInfo& s) { s.op = &undeclared; }), "not declared by LS_OP"));
  }

  TEST_CASE("linear_attn: in bf16 the sum of weights is not rounded before the division") {
    // Equal values have their own value as their weighted mean, whatever the weights are.
    const auto config = read_config_text<ModelConfig>(
        "width: 32\ndtype: bf16\nchannel: none\ninit_std: 0.3\n"
        "layers: [{name: linear_attn, heads: 2, eps: 0}]\n");
    Model model(config, {.vocab_in = 2, .classes = 2}, 1);
    const Tensor out = pass(model, Tensor::zeros({1, 300}, DType::kI64), nullptr).out;
    Index differ = 0;
    for (Index t = 1; t < 300; ++t) {
      differ +=
          out.select(1, t).contiguous().slow_at(0) != out.select(1, 0).contiguous().slow_at(0);
    }
    CHECK(differ < 10);
  }
}

}  // namespace
}  // namespace ls::layers
