#include "autograd/tape.h"

#include <doctest/doctest.h>

#include <functional>
#include <thread>

#include "autograd/call.h"
#include "autograd/checkpoint.h"
#include "autograd/functional.h"
#include "core/ops/activation/activation.h"
#include "core/ops/mul/mul.h"
#include "core/ops/top_k/top_k.h"
#include "layers/model.h"
#include "tests/support/errors.h"
#include "tests/support/mixer_laws.h"

using namespace ls;
using ag::Var;
using test::message;
using test::says;

namespace {
Tensor vec(std::vector<double> v) {
  return Tensor::from(v);
}
std::vector<double> list(const Tensor& t) {
  return t.to_vector<double>();
}
Var mul(const Var& a, const Var& b) {
  return ag::call<Mul>({.a = a, .b = b}).y;
}
std::vector<Var> squares(const std::vector<Var>& in) {
  return {mul(in[0], in[0])};
}
}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("gradients accumulate over uses and passes") {
    Var x = Var::leaf(vec({1, 2}));
    for (int pass = 1; pass <= 2; ++pass) {
      ag::Tape tape;
      const Var y = ag::add(ag::scale(x, 3), x);
      tape.backward(ag::add(y, x), vec({1, 10}));
      CHECK(x.grad().to_vector<double>() == std::vector<double>{5.0 * pass, 50.0 * pass});
    }
  }

  TEST_CASE("split, slice and concat return gradients to their places") {
    Var x = Var::leaf(Tensor::from<double>({1, 2, 3, 4, 5, 6}, {2, 3}));
    ag::Tape tape;
    const auto parts = ag::split(x, 1, {1, 2});
    const Var y = ag::concat({parts[1], ag::slice(x, 1, 0, 1)}, 1);
    tape.backward(y, Tensor::from<double>({1, 2, 3, 4, 5, 6}, {2, 3}));
    CHECK(x.grad().to_vector<double>() == std::vector<double>{3, 1, 2, 6, 4, 5});
  }

  TEST_CASE("nothing is recorded without a tape or under NoGrad") {
    Var x = Var::leaf(vec({1}));
    CHECK_FALSE(ag::scale(x, 2).requires_grad());
    ag::Tape tape;
    const ag::NoGrad no_grad;
    CHECK_FALSE(ag::scale(x, 2).requires_grad());
    CHECK(tape.size() == 0);
  }

  TEST_CASE("a recomputed block gives the gradients of the plain one") {
    Var w = Var::leaf(vec({2, 3}));
    Var x = Var::leaf(vec({5, 7}));
    const auto block = [&](const std::vector<Var>& in) {
      return std::vector<Var>{ag::add(ag::scale(in[0], 4), ag::scale(w, 2))};
    };
    ag::Tape tape;
    const Var y = ag::scale(ag::checkpoint(block, {ag::scale(x, 1)})[0], 10);
    CHECK(tape.size() == 3);
    tape.backward(y, vec({1, 1}));
    CHECK(x.grad().to_vector<double>() == std::vector<double>{40, 40});
    CHECK(w.grad().to_vector<double>() == std::vector<double>{20, 20});
  }

  TEST_CASE("a saved tensor that was changed in place is an error, any other change is not") {
    Var x = Var::leaf(vec({2, 3})), w = Var::leaf(vec({5, 7}));
    const auto after = [&](const std::function<Var()>& forward,
                           const std::function<void()>& change) {
      x.clear_grad();
      ag::Tape tape;
      const Var y = forward();
      change();
      return message([&] { tape.backward(y, vec({1, 1})); });
    };
    const char* const refused = "was changed in place after it was saved";
    const auto product = [&] { return mul(x, w); };
    CHECK(after(product, [] {}) == "nothing thrown");
    const std::string text = after(product, [&] { w.mutable_value().mul_(2); });
    CHECK(says(text, refused));
    CHECK(says(text, "mul"));
    // Through a view, and by hand.
    CHECK(says(after(product, [&] { Tensor(w.value()).slice(0, 0, 1).fill_(1); }), refused));
    CHECK(says(after(product,
                     [&] {
                       w.mutable_value().data<double>()[0] = 1;
                       w.mutable_value().bump_version();
                     }),
               refused));
    CHECK(says(
        after([&] { return ag::checkpoint(squares, {x})[0]; }, [&] { x.mutable_value().mul_(2); }),
        refused));
    // Nothing of add is kept, and another tensor in its place leaves the saved one alone.
    CHECK(after([&] { return ag::add(x, w); }, [&] { w.mutable_value().mul_(2); }) ==
          "nothing thrown");
    CHECK(after(product, [&] { w.mutable_value() = vec({0, 0}); }) == "nothing thrown");
  }

  TEST_CASE("gradients add up in buffers of their own") {
    Var a = Var::leaf(vec({1, 2})), b = Var::leaf(vec({3, 4}));
    const Tensor seed = vec({1, 10});
    const auto pass = [&](const Var& y) { ag::Tape::current()->backward(y, seed); };
    {
      ag::Tape tape;
      pass(ag::add(a, b));
    }
    const Tensor first = a.grad();
    {
      ag::Tape tape;
      pass(ag::scale(a, 2));
    }
    CHECK(list(a.grad()) == std::vector<double>{3, 30});
    CHECK(list(b.grad()) == std::vector<double>{1, 10});
    CHECK(list(first) == std::vector<double>{1, 10});
    CHECK(list(seed) == std::vector<double>{1, 10});
    // A leaf on its own, several outputs, one without a seed, one that is a constant.
    a.clear_grad();
    ag::Tape tape;
    const std::vector<Var> outputs = {a, ag::scale(a, 3), ag::scale(a, 5), Var(seed)};
    const std::vector<Tensor> seeds = {seed, seed, Tensor(), seed};
    tape.backward(outputs, seeds);
    CHECK(list(a.grad()) == std::vector<double>{4, 40});
  }

  TEST_CASE("integer outputs and outputs that nothing was made from take no part") {
    Var x = Var::leaf(vec({1, 3, 2}));
    ag::Tape tape;
    const auto best = ag::call<TopK>({.x = x}, {.k = 2});
    CHECK_FALSE(best.index.requires_grad());
    ag::scale(x, 100);  // never reached
    tape.backward(best.values, vec({1, 10}));
    CHECK(list(x.grad()) == std::vector<double>{0, 1, 10});
  }

  TEST_CASE("the tape refuses what it cannot differentiate") {
    Var x = Var::leaf(vec({1, 2}));
    ag::Tape outer;
    const Var y = ag::scale(x, 2);
    CHECK(says(message([&] { outer.backward(y); }), "needs a seed"));
    ag::Tape inner;
    CHECK(says(message([&] { ag::scale(y, 2); }), "recorded on another tape"));
    CHECK(says(message([&] { inner.backward(y, vec({1, 1})); }), "another tape"));
    CHECK(says(message([&] { outer.backward(y, vec({1, 1})); }), "innermost"));
  }

  TEST_CASE("the first gradient that is not finite is named with its op") {
    Var x = Var::leaf(vec({1000, 1}));
    ag::Tape tape;
    tape.set_check_finite(true);
    const Var y = ag::call<Activation>({.x = ag::scale(x, 1)}, {Act::kExp}).y;
    const std::string text = message([&] { tape.backward(ag::scale(y, 2), vec({1, 1})); });
    CHECK(says(text, "input 0 of activation"));
    const ag::CheckFinite check;
    CHECK(says(message([&] { ag::call<Activation>({.x = x}, {Act::kExp}); }), "op activation"));
  }

  TEST_CASE("recomputation: several outputs, absent gradients, constants, blocks in blocks") {
    const auto block = [](const std::vector<Var>& in) {
      return std::vector<Var>{mul(in[0], in[1]), ag::scale(in[0], 3)};
    };
    const auto nested = [&](const std::vector<Var>& in) {
      return ag::checkpoint(block, {mul(in[0], in[0]), in[1]});
    };
    Var x = Var::leaf(vec({2, 3}));
    const Var c = vec({5, 7});
    for (const bool first : {true, false}) {
      std::vector<double> want;
      for (const bool recompute : {false, true}) {
        x.clear_grad();
        ag::Tape tape;
        const std::vector<Var> in = {x, c};
        const std::vector<Var> out = recompute ? ag::checkpoint(nested, in) : nested(in);
        CHECK((tape.size() == 1) == recompute);
        tape.backward(out[first ? 0 : 1], vec({1, 1}));
        if (recompute) {
          CHECK(list(x.grad()) == want);
        }
        want = list(x.grad());
      }
    }
    CHECK(list(x.grad()) == std::vector<double>{12, 18});
    // Without a tape, or under NoGrad, the block just runs.
    CHECK_FALSE(ag::checkpoint(nested, {x, c})[0].requires_grad());
    ag::Tape tape;
    const ag::NoGrad no_grad;
    CHECK_FALSE(ag::checkpoint(nested, {x, c})[0].requires_grad());
    CHECK(tape.size() == 0);
  }

  TEST_CASE("NoGrad nests, EnableGrad undoes it, a detached value stops gradients") {
    Var x = Var::leaf(vec({2}));
    ag::Tape tape;
    {
      const ag::NoGrad outer;
      {
        const ag::NoGrad inner;
        const ag::EnableGrad enable;
        CHECK(ag::scale(x, 2).requires_grad());
      }
      CHECK_FALSE(ag::grad_enabled());
      CHECK_FALSE(mul(x, x).requires_grad());
    }
    CHECK(ag::grad_enabled());
    tape.backward(mul(x, mul(x, x).detach()), vec({1}));
    CHECK(list(x.grad()) == std::vector<double>{4});
  }

  TEST_CASE("tapes belong to their thread") {
    Var x = Var::leaf(vec({2}));
    ag::Tape tape;
    std::thread([&] { CHECK_FALSE(mul(x, x).requires_grad()); }).join();
    CHECK(tape.size() == 0);
  }

  TEST_CASE("a long tape is walked and released without recursion") {
    constexpr int kNodes = 100000;
    Var x = Var::leaf(vec({1}));
    const Var one = vec({1});
    for (const bool backward : {true, false}) {
      ag::Tape tape;
      Var y = x;
      for (int i = 0; i < kNodes; ++i) {
        y = i % 2 == 0 ? mul(y, one) : ag::reshape(y, {1});
      }
      CHECK(tape.size() == kNodes);
      if (backward) {
        tape.backward(y, vec({1}));
        CHECK(tape.size() == 0);
      }
    }
    CHECK(x.grad().item() == 1);
  }

  TEST_CASE("one node a scan: the tape of a model is as long for few tokens as for many") {
    for (const std::string& mixer : test::right_mixers()) {
      CAPTURE(mixer);
      const test::MixerCase c = test::mixer_case(mixer, "layers: [" + mixer + "]");
      layers::Model model(c.config, {.vocab_in = 11, .classes = 11}, 1);
      std::vector<Index> sizes;
      for (const Index tokens : {3, 70}) {
        ag::Tape tape;
        layers::SeqContext seq(2, tokens, {});
        const Tensor ids = Tensor::zeros({2, tokens}, DType::kI64);
        model.loss(model.hidden({ids, {}}, seq), ids);
        sizes.push_back(tape.size());
      }
      CHECK(sizes[0] > 0);
      CHECK(sizes[0] == sizes[1]);
    }
  }
}
