// Layers that read from the last token to the first.
#include <doctest/doctest.h>

#include <algorithm>

#include "autograd/tape.h"
#include "core/config/yaml.h"
#include "layers/mixers/mixer.h"
#include "tests/support/draw.h"
#include "tests/support/errors.h"
#include "tests/support/mixer_laws.h"

namespace ls::layers {
namespace {

constexpr Index kRows = 2, kTokens = 13;

Tensor turned(const Tensor& x) {
  Tensor out = Tensor::empty(x.shape(), x.dtype());
  for (Index t = 0; t < x.size(1); ++t) {
    out.slice(1, x.size(1) - 1 - t, x.size(1) - t).copy_(x.slice(1, t, t + 1));
  }
  return out;
}

struct OneMixer {
  explicit OneMixer(const test::MixerCase& c) {
    mixer = c.config.layers[0].make(
        MixerArgs{.scope = Scope(set, 1, DType::kF64), .width = c.config.width, .init_std = 0.3});
  }
  ag::ParameterSet set;
  std::unique_ptr<TokenMixer> mixer;
};

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("read backward is the turned sequence read forward, for every mixer") {
    const DocumentStarts documents = {{4, 9}, {}}, theirs = {{0, 4, 9}, {0}};
    for (const test::MixerCase& c : test::mixer_cases()) {
      if (c.config.layers.size() > 1 || !test::traits_of(c).causal) {
        continue;
      }
      CAPTURE(c.name);
      OneMixer one(c);
      test::Draw draw("backward");
      const Tensor x = draw.normal({kRows, kTokens, c.config.width});
      const ag::NoGrad no_grad;
      for (const bool packed : {false, true}) {
        SeqContext seq(kRows, kTokens, {.documents = packed ? &documents : nullptr});
        const Tensor got = [&] {
          const SeqContext::Backward scope(seq);
          return seq.turned(one.mixer->forward(seq.turned(ag::Var(x)), seq)).value();
        }();
        SeqContext plain(kRows, kTokens, {.documents = packed ? &theirs : nullptr});
        const Tensor want = turned(one.mixer->forward(ag::Var(turned(x)), plain).value());
        CHECK(got.to_vector<double>() == want.to_vector<double>());
        // The context is as before.
        SeqContext fresh(kRows, kTokens, {.documents = packed ? &documents : nullptr});
        CHECK(one.mixer->forward(ag::Var(x), seq).value().to_vector<double>() ==
              one.mixer->forward(ag::Var(x), fresh).value().to_vector<double>());
      }
    }
  }

  TEST_CASE("what reads backward takes no state and leaves none") {
    const test::MixerCase c = test::mixer_case("both", "layers: [{name: bidirectional, of: gla}]");
    OneMixer one(c);
    test::Draw draw("backward state");
    const ag::Var x(draw.normal({1, 5, c.config.width}));
    const ag::NoGrad no_grad;
    SeqContext seq(1, 5, {.keep_states = true});
    one.mixer->forward(x, seq);
    ModelState& state = seq.outgoing();
    CHECK(!state.slots.empty());
    CHECK(std::ranges::all_of(state.slots, [](const auto& slot) {
      return slot.first.find("backward") == std::string::npos;
    }));
    SeqContext next(1, 5, {.incoming = &state});
    CHECK(test::says(test::message([&] { one.mixer->forward(x, next); }), "whole documents"));
  }

  TEST_CASE("one mixer for both directions has half the parameters") {
    const auto count = [](const char* tied) {
      const std::string yaml =
          std::string("layers: [{name: bidirectional, of: gla, tied: ") + tied + "}]";
      return OneMixer(test::mixer_case("tied", yaml)).set.count();
    };
    CHECK(count("false") == 2 * count("true"));
  }
}

}  // namespace ls::layers
