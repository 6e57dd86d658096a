// Mixers with one mistake each, in this binary only: the laws must catch them, and nothing else
// must be reported.
#include <doctest/doctest.h>

#include "autograd/functional.h"
#include "core/ops/attention/attention.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/rope/rope.h"
#include "core/ops/short_conv/short_conv.h"
#include "layers/mixers/projections.h"
#include "tests/support/mixer_laws.h"

using namespace ls;
using namespace ls::layers;
using namespace ls::test;

namespace {

/// One head of the model's width: queries, keys and values.
class OneHead : public TokenMixer {
 public:
  using Config = NoConfig;
  OneHead(const Config&, const MixerArgs& a)
      : in_(a.scope.child("in"), a.width, 3 * a.width, Init::normal(a.init_std)) {}

 protected:
  struct Heads {
    ag::Var q, k, v;
  };
  Heads heads(const ag::Var& x) const {
    const Index d = x.size(2);
    const auto parts = ag::split(in_(x), 2, {d, d, d});
    const Shape shape{x.size(0), x.size(1), 1, d};
    return {ag::reshape(parts[0], shape), ag::reshape(parts[1], shape),
            ag::reshape(parts[2], shape)};
  }
  static ag::Var joined(const ag::Var& o) {
    return ag::reshape(o, {o.size(0), o.size(1), o.size(3)});
  }

 private:
  Linear in_;
};

/// As it should be.
class Right final : public OneHead {
 public:
  using OneHead::OneHead;
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [q, k, v] = heads(x);
    return joined(seq.scan<ops::DecayedLinear>("scan", {.q = q, .k = k, .v = v}, {.scale = 0.1}).o);
  }
};
LS_REGISTER(TokenMixer, Right, "wrong_in_nothing", "a mixer that keeps the laws");

class SeesAhead final : public OneHead {
 public:
  using OneHead::OneHead;
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [q, k, v] = heads(x);
    ops::Attention::Attrs attrs;
    attrs.causal = false;
    return joined(seq.scan<ops::Attention>("kv", {.q = q, .k = k, .v = v}, attrs).o);
  }
};
LS_REGISTER(TokenMixer, SeesAhead, "wrong_sees_ahead", "attention without the causal mask");

/// From the last token to the first, and says so.
class LooksAhead final : public OneHead {
 public:
  static constexpr MixerTraits kTraits{.causal = false};
  using OneHead::OneHead;
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const SeqContext::Backward scope(seq);
    const auto [q, k, v] = heads(seq.turned(x));
    return seq.turned(joined(seq.scan<ops::Attention>("kv", {.q = q, .k = k, .v = v}).o));
  }
};
LS_REGISTER(TokenMixer, LooksAhead, "wrong_only_if_causal", "attention to what follows");

/// Says so, and does not.
class LooksBack final : public OneHead {
 public:
  static constexpr MixerTraits kTraits{.causal = false};
  using OneHead::OneHead;
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [q, k, v] = heads(x);
    return joined(seq.scan<ops::DecayedLinear>("scan", {.q = q, .k = k, .v = v}, {.scale = 0.1}).o);
  }
};
LS_REGISTER(TokenMixer, LooksBack, "wrong_is_causal", "causal, and says that it is not");

class ForgetsState final : public OneHead {
 public:
  using OneHead::OneHead;
  ag::Var forward(const ag::Var& x, SeqContext&) override {
    const auto [q, k, v] = heads(x);
    return joined(ag::call<ops::DecayedLinear>({.q = q, .k = k, .v = v}, {.scale = 0.1}).o);
  }
};
LS_REGISTER(TokenMixer, ForgetsState, "wrong_forgets_state", "a scan past the sequence context");

/// Counts on from the first token of a row, whatever begins in it.
class ForgetsReset final : public OneHead {
 public:
  using OneHead::OneHead;
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    Tensor positions = seq.positions().clone();
    auto* const p = positions.data<std::int64_t>();
    for (Index i = 0; i < positions.numel(); ++i) {
      const Index first = i - i % seq.tokens();
      p[i] = p[first] + i - first;
    }
    return joined(ag::call<ops::Rope>({.x = heads(x).q, .positions = ag::Var(positions)}, {}).y);
  }
};
LS_REGISTER(TokenMixer, ForgetsReset, "wrong_forgets_reset", "positions run through documents");

class MixesRows final : public OneHead {
 public:
  using OneHead::OneHead;
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    std::vector<Index> next(static_cast<std::size_t>(seq.batch()));
    for (std::size_t i = 0; i < next.size(); ++i) {
      next[i] = static_cast<Index>((i + 1) % next.size());
    }
    const auto [q, k, v] = heads(x);
    return ag::add(joined(q), ag::take_rows(joined(v), next));
  }
};
LS_REGISTER(TokenMixer, MixesRows, "wrong_mixes_rows", "reads the next row of the batch");

class LosesGradient final : public OneHead {
 public:
  using OneHead::OneHead;
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [q, k, v] = heads(x);
    return joined(
        seq.scan<ops::DecayedLinear>("scan", {.q = q, .k = k.detach(), .v = v}, {.scale = 0.1}).o);
  }
};
LS_REGISTER(TokenMixer, LosesGradient, "wrong_loses_gradient", "keys without a gradient");

/// A step of its own for single tokens, with another scale.
class DriftsInDecode final : public OneHead {
 public:
  using OneHead::OneHead;
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    const auto [q, k, v] = heads(x);
    const double scale = x.size(1) == 1 ? 0.1001 : 0.1;
    return joined(
        seq.scan<ops::DecayedLinear>("scan", {.q = q, .k = k, .v = v}, {.scale = scale}).o);
  }
};
LS_REGISTER(TokenMixer, DriftsInDecode, "wrong_drifts_in_decode", "decodes another function");

class HasNoMemory final : public OneHead {
 public:
  using OneHead::OneHead;
  ag::Var forward(const ag::Var& x, SeqContext&) override { return joined(heads(x).q); }
};
LS_REGISTER(TokenMixer, HasNoMemory, "wrong_has_no_memory", "a map of each token");

MixerCase of(const std::string& mixer) {
  return mixer_case(mixer, "layers: [" + mixer + "]");
}

/// The laws that report a fault, each once.
std::string broken(const std::string& mixer, const std::string& dtype = "f64") {
  std::string laws;
  for (const std::string& line : check_mixer(of(mixer), dtype)) {
    const std::string law = line.substr(0, line.find_first_of(" :")) + " ";
    if (laws.find(law) == std::string::npos) {
      laws += law;
    }
  }
  return laws;
}

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("mixer laws: a right mixer passes where wrong ones are caught") {
    CHECK(broken("wrong_in_nothing") == "");
    CHECK(broken("wrong_in_nothing", "f32") == "");
  }
  TEST_CASE("mixer laws: outputs that see ahead") {
    CHECK(broken("wrong_sees_ahead").rfind("causal ", 0) == 0);
  }
  TEST_CASE("mixer laws: traits decide which laws hold") {
    CHECK(broken("wrong_only_if_causal") == "");
    CHECK(broken("wrong_is_causal") == "causal ");
  }
  TEST_CASE("mixer laws: a state that is not carried") {
    CHECK(broken("wrong_forgets_state") == "split decode ranks packed ");
    CHECK(broken("wrong_forgets_state", "f32") == "split decode ranks packed ");
  }
  TEST_CASE("mixer laws: a document that is not a new beginning") {
    CHECK(broken("wrong_forgets_reset") == "ranks packed ");
    CHECK(broken("wrong_forgets_reset", "f32") == "ranks packed ");
  }
  TEST_CASE("mixer laws: rows that see each other") {
    CHECK(broken("wrong_mixes_rows").rfind("causal ", 0) == 0);
  }
  TEST_CASE("mixer laws: a gradient that is lost") {
    CHECK(broken("wrong_loses_gradient") == "derivative ");
  }
  TEST_CASE("mixer laws: decoding that is another function") {
    const std::string laws = broken("wrong_drifts_in_decode");
    CHECK(laws.find("decode ") != std::string::npos);
  }
  TEST_CASE("mixer laws: no memory, nothing learned") {
    CHECK(learned_accuracy(of("wrong_has_no_memory")) < 0.6);
  }
  TEST_CASE("mixer laws: a mixer without state passes, and settings that do not fit are a fault") {
    CHECK(broken("wrong_has_no_memory") == "");
    const MixerCase c = mixer_case("does not fit", "layers: [{name: lstm, heads: 5}]");
    REQUIRE(check_mixer(c, "f64").size() == 1);
    CHECK(check_mixer(c, "f64")[0].rfind("build: exception", 0) == 0);
  }
}
