// Mixes with the token before: first shares by channel and place of the block, values.
#include "layers/mixers/rwkv.h"

#include <doctest/doctest.h>

#include <cmath>

#include "tests/support/draw.h"

namespace ls::layers {
namespace {

TEST_SUITE("unit") {
  TEST_CASE("rwkv: shares of the token before") {
    ag::ParameterSet set;
    const Scope scope(set, 5, DType::kF64, "mix");
    const TokenMix plain(scope, "key", 4, 0.5), less(scope, "value", 4, 1, 0.25);
    const Tensor share = set.find("mix.key")->var.value(),
                 lower = set.find("mix.value")->var.value();
    CHECK_FALSE(set.find("mix.key")->decay);
    for (Index i = 0; i < 4; ++i) {
      CHECK(share.slow_at(i) == doctest::Approx(1 - std::sqrt(static_cast<double>(i) / 4)));
      CHECK(lower.slow_at(i) == doctest::Approx(0.75 - static_cast<double>(i) / 4));
    }
    test::Draw draw("token mix");
    const Tensor x = draw.normal({1, 3, 4}), difference = draw.normal({1, 3, 4}),
                 more = draw.normal({1, 3, 4});
    const Tensor y = plain(ag::Var(x), ag::Var(difference), ag::Var(more)).value(),
                 z = plain(ag::Var(x), ag::Var(difference)).value();
    for (Index i = 0; i < 12; ++i) {
      const double base = x.slow_at(i), d = difference.slow_at(i), mu = share.slow_at(i % 4);
      CHECK(z.slow_at(i) == doctest::Approx(base + d * mu));
      CHECK(y.slow_at(i) == doctest::Approx(base + d * (mu + more.slow_at(i))));
    }
  }

  TEST_CASE("rwkv: the place of a block") {
    CHECK(block_ratio(0, 1) == 0);
    CHECK(block_ratio(0, 5) == 0);
    CHECK(block_ratio(1, 5) == 0.25);
    CHECK(block_ratio(4, 5) == 1);
  }
}

}  // namespace
}  // namespace ls::layers
