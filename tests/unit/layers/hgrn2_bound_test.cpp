// The bounds that hgrn2 learns, against plain loops in f64.
#include <doctest/doctest.h>

#include <cmath>

#include "autograd/tape.h"
#include "core/config/yaml.h"
#include "core/tensor/view.h"
#include "layers/model.h"
#include "tests/support/draw.h"
#include "tests/support/errors.h"
#include "tests/support/mixer_laws.h"

namespace ls::layers {
namespace {

constexpr Index kTokens = 9, kWidth = 8, kHead = 4, kLayers = 3;

using Matrix = View<const double, 2>;

std::unique_ptr<TokenMixer> layer(ag::ParameterSet& set, const std::string& bound, Index l) {
  const test::MixerCase c = test::mixer_case(
      "hgrn2", "{width: 8, layers: [{name: hgrn2, head_dim: 4, bound: " + bound + "}]}");
  return c.config.layers[0].make(
      MixerArgs{.scope = Scope(set, 1, DType::kF64, "blocks." + std::to_string(l)),
                .width = kWidth,
                .of_kind = l,
                .kinds = kLayers,
                .kind = "hgrn2",
                .init_std = 0.5});
}

/// Of layer l and channel c, from parameters [L,D].
double bound_of(const Matrix& from, const std::string& how, Index l, Index c) {
  double all = 0, sum = 0;
  for (Index i = 0; i < kLayers; ++i) {
    all += std::exp(from(i, c));
  }
  const Index first = how == "learned" ? 0 : 1, last = how == "learned" ? l - 1 : l;
  for (Index i = first; i <= last; ++i) {
    sum += std::exp(from(i, c)) / all;
  }
  return sum;
}

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

/// One layer on x [T,D], with f = low + (1 - low) sigmoid(W_f x).
std::vector<double> by_hand(const Matrix& x, const Matrix& in, const Matrix& out,
                            const std::vector<double>& low) {
  std::vector<double> state(kWidth * kHead, 0), y;
  for (Index t = 0; t < kTokens; ++t) {
    const auto projected = [&](Index row) {
      double sum = 0;
      for (Index c = 0; c < kWidth; ++c) {
        sum += in(row, c) * x(t, c);
      }
      return sum;
    };
    std::vector<double> o(kWidth, 0);
    for (Index c = 0; c < kWidth; ++c) {  // a key channel, of head c / kHead
      const auto i = static_cast<std::size_t>(c);
      const double f = low[i] + (1 - low[i]) * sigmoid(projected(kWidth + c));
      for (Index d = 0; d < kHead; ++d) {
        const Index v = c / kHead * kHead + d;
        const double z = projected(2 * kWidth + v);
        double& s = state[static_cast<std::size_t>(c * kHead + d)];
        s = f * s + (1 - f) * z * sigmoid(z);
        o[static_cast<std::size_t>(v)] += sigmoid(projected(c)) * s;
      }
    }
    double mean = 0, square = 0;
    for (const double v : o) {
      mean += v / kWidth;
    }
    for (const double v : o) {
      square += (v - mean) * (v - mean) / kWidth;
    }
    for (Index c = 0; c < kWidth; ++c) {
      double sum = 0;
      for (Index d = 0; d < kWidth; ++d) {
        sum += out(c, d) * (o[static_cast<std::size_t>(d)] - mean) / std::sqrt(square + 1e-5);
      }
      y.push_back(sum);
    }
  }
  return y;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("bounds that hgrn2 learns are sums of a softmax over its layers") {
    for (const std::string how : {"learned", "learned_fla"}) {
      CAPTURE(how);
      ag::ParameterSet set;
      std::vector<std::unique_ptr<TokenMixer>> layers;
      for (Index l = 0; l < kLayers; ++l) {
        layers.push_back(layer(set, how, l));
      }
      test::Draw draw("hgrn2 bounds");
      ag::Var parameter = set.find("blocks.0.bounds")->var;
      Tensor& bounds = parameter.mutable_value();
      CHECK(bounds.shape() == Shape{kLayers, kWidth});
      bounds.copy_(draw.normal({kLayers, kWidth}));
      const ag::NoGrad no_grad;
      SeqContext seq(1, kTokens, {});
      for (Index l = 0; l < kLayers; ++l) {
        CAPTURE(l);
        const Tensor x = draw.normal({1, kTokens, kWidth});
        std::vector<double> low;
        for (Index c = 0; c < kWidth; ++c) {
          low.push_back(bound_of(Matrix(bounds), how, l, c));
        }
        const std::string path = "blocks." + std::to_string(l);
        const std::vector<double> want =
            by_hand(Matrix(x.select(0, 0)), Matrix(set.find(path + ".in.weight")->var.value()),
                    Matrix(set.find(path + ".out.weight")->var.value()), low);
        const SeqContext::Layer scope(seq, path);
        const std::vector<double> got = layers[static_cast<std::size_t>(l)]
                                            ->forward(ag::Var(x), seq)
                                            .value()
                                            .to_vector<double>();
        REQUIRE(got.size() == want.size());
        for (std::size_t i = 0; i < got.size(); ++i) {
          CHECK(got[i] == doctest::Approx(want[i]).epsilon(1e-11));
        }
      }
    }
  }

  TEST_CASE("a learned bound without the layer that has it is an error that says so") {
    ag::ParameterSet set;
    const auto first = layer(set, "fixed", 0), second = layer(set, "learned", 1);
    SeqContext seq(1, kTokens, {});
    test::Draw draw("hgrn2 alone");
    const ag::Var x(draw.normal({1, kTokens, kWidth}));
    first->forward(x, seq);
    CHECK(test::says(test::message([&] { second->forward(x, seq); }), "the same bound"));
    CHECK_THROWS_WITH_AS(
        test::mixer_case("both", "layers: [{name: hgrn2, bound: learned, lower_bound: 0.5}]"),
        doctest::Contains("bound: fixed"), Error);
  }

  TEST_CASE(
      "bounds are of layers at one place: beside other kinds, both ways, within one another") {
    const std::string hgrn2 = "{name: hgrn2, head_dim: 4, bound: learned}",
                      both = "{name: bidirectional, of: " + hgrn2 + "}",
                      tied = "{name: bidirectional, tied: true, of: " + hgrn2 + "}",
                      nested = "{name: bidirectional, of: " + both + "}",
                      other = "{name: bidirectional, of: {name: gla, heads: 2}}";
    const auto bounds = [](const std::string& layers) {
      Model model(test::mixer_case("hgrn2", "{width: 8, layers: [" + layers + "]}").config,
                  {.vocab_in = 5, .classes = 5}, 1);
      SeqContext seq(1, 3, {});
      const ag::NoGrad no_grad;
      model.hidden({Tensor::from(std::vector<Index>{3, 1, 4}, {1, 3}), {}}, seq);
      std::vector<Index> of;
      for (const ag::Parameter& p : model.parameters().items()) {
        if (p.name.ends_with("bounds")) {
          of.push_back(p.var.size(0));
        }
      }
      return of;
    };
    using List = std::vector<Index>;
    CHECK(bounds(other + ", " + both) == List{});
    CHECK(bounds(other + ", " + both + ", " + both) == List{2, 2});
    CHECK(bounds(hgrn2 + ", " + both + ", " + hgrn2 + ", " + both) == List{2, 2, 2});
    CHECK(bounds(tied + ", " + tied + ", " + tied) == List{3});
    CHECK(bounds(nested + ", " + both + ", " + nested) == List{2, 2, 2, 2});
    CHECK(test::says(
        test::message([&] { bounds(hgrn2 + ", {name: hgrn2, head_dim: 4, bound: learned_fla}"); }),
        "the same bound"));
  }
}

}  // namespace ls::layers
