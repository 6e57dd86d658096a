// What layers of one pass tell each other: values handed on, losses added; with blocks that run
// again the same bits.
#include <doctest/doctest.h>

#include "autograd/functional.h"
#include "autograd/tape.h"
#include "core/config/yaml.h"
#include "core/ops/mul/mul.h"
#include "core/ops/reduce/reduce.h"
#include "layers/model.h"
#include "tests/support/errors.h"

namespace ls::layers {
namespace {

/// The first layer hands its values on, later ones mix them in; each adds a penalty on its own.
class Residual final : public TokenMixer {
 public:
  using Config = NoConfig;
  Residual(const Config&, const MixerArgs& a)
      : v_(a.scope.child("v"), a.width, a.width, Init::normal(a.init_std)) {}
  ag::Var forward(const ag::Var& x, SeqContext& seq) override {
    ag::Var v = v_(x);
    const ag::Var squares = ag::call<ops::Mul>({.a = v, .b = v}).y;
    seq.add_loss(ag::call<ops::Reduce>({.x = squares}, {.kind = ops::Reduce::Kind::kMean}).y);
    if (const ag::Var first = seq.handed("v"); first.defined()) {
      return ag::add(v, first);
    }
    seq.hand_on("v", v);
    return v;
  }

 private:
  Linear v_;
};
LS_REGISTER(TokenMixer, Residual, "wrong_residual", "value residual, in this binary only");

struct Passed {
  Tensor out, loss;
  std::vector<Tensor> gradients;
};
Passed pass(bool recompute, double of_loss) {
  ModelConfig config = read_config_text<ModelConfig>(
      "width: 8\ninit_std: 0.5\ndtype: f64\nlayers: [wrong_residual, wrong_residual, "
      "wrong_residual]\n");
  config.recompute = recompute;
  Model model(config, {.vocab_in = 5, .classes = 5}, 2);
  ag::Tape tape;
  SeqContext seq(1, 4, {});
  const ag::Var out = model.hidden({Tensor::from(std::vector<Index>{3, 1, 4, 1}, {1, 4}), {}}, seq);
  const ag::Var ends[] = {out, seq.added_loss()};
  const Tensor seeds[] = {Tensor::full(out.shape(), out.dtype(), 0.25),
                          Tensor::full(ends[1].shape(), ends[1].dtype(), of_loss)};
  tape.backward(ends, seeds);
  Passed p{out.value(), ends[1].value(), {}};
  for (const ag::Parameter& q : model.parameters().items()) {
    p.gradients.push_back(q.var.grad());
  }
  return p;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() &&
         (!a.defined() || a.to_vector<double>() == b.to_vector<double>());
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("layers hand values on and add losses, also where blocks run again") {
    const Passed plain = pass(false, 2), again = pass(true, 2), without = pass(false, 0);
    CHECK(same_bits(plain.out, again.out));
    CHECK(same_bits(plain.loss, again.loss));
    CHECK(plain.loss.item() > 0);
    REQUIRE(plain.gradients.size() == again.gradients.size());
    bool matters = false;
    for (std::size_t i = 0; i < plain.gradients.size(); ++i) {
      CHECK(same_bits(plain.gradients[i], again.gradients[i]));
      matters |= !same_bits(plain.gradients[i], without.gradients[i]);
    }
    CHECK(matters);
  }

  TEST_CASE("a name is handed on once, and what is added is one number") {
    SeqContext seq(1, 1, {});
    const ag::Var one(Tensor::scalar(1));
    seq.hand_on("v", one);
    CHECK(test::says(test::message([&] { seq.hand_on("v", one); }), "'v'"));
    CHECK(!seq.handed("w").defined());
    CHECK(test::says(test::message([&] { seq.add_loss(ag::Var(Tensor::zeros({2}, DType::kF32))); }),
                     "[2]"));
  }
}

}  // namespace ls::layers
