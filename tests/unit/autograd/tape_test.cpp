#include "autograd/checkpoint.h"
#include "autograd/functional.h"
#include "autograd/tape.h"

#include <doctest/doctest.h>

using namespace ls;
using ag::Var;

namespace {
Tensor vec(std::vector<double> v) { return Tensor::from(v); }
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

  TEST_CASE("a long tape is walked and released without recursion") {
    Var x = Var::leaf(vec({1}));
    ag::Tape tape;
    Var y = x;
    for (int i = 0; i < 200000; ++i) {
      y = ag::reshape(y, {1});
    }
    tape.backward(y, vec({1}));
    CHECK(x.grad().item() == 1);
  }
}
