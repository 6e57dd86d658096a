// A model that has scans of every kind, each strategy for those that it serves: through the
// contexts that mixers call, with rotary positions, documents and carried states.
#include <doctest/doctest.h>

#include "parallel/sequence/strategy.h"
#include "tests/support/mixer_laws.h"

TEST_SUITE("conformance") {
  TEST_CASE("models split over ranks by every strategy") {
    const ls::test::MixerCase hybrid = ls::test::mixer_case(
        "hybrid",
        "{width: 16, init_std: 0.2, layers: [{name: gated_deltanet, heads: 2, head_dim: 4}, "
        "{name: attention, heads: 4, head_dim: 4}, {name: mlstm, heads: 2}, "
        "{name: attention, heads: 2, head_dim: 8, window: 5}, {name: lstm, heads: 2}, mingru]}");
    for (const std::string& strategy : ls::parallel::strategy_registry().names()) {
      if (strategy.starts_with("wrong_")) {
        continue;
      }
      for (const char* const dtype : {"f64", "f32"}) {
        CAPTURE(strategy);
        CAPTURE(dtype);
        for (const std::string& fault : ls::test::check_ranks(hybrid, dtype, strategy)) {
          FAIL_CHECK(fault);
        }
      }
    }
  }
}
