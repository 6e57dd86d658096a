#include "experiments/sampling.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "core/base/error.h"

using namespace ls;
using experiments::sample_token;

namespace {
std::vector<double> frequencies(const std::vector<float>& logits,
                                const experiments::SamplingOptions& o) {
  std::vector<double> count(logits.size());
  Rng rng(1, "test");
  for (int i = 0; i < 20000; ++i) {
    count[static_cast<std::size_t>(sample_token(logits, o, rng))] += 1.0 / 20000;
  }
  return count;
}
}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("sampling follows temperature, top-k and top-p") {
    const std::vector<float> logits = {std::log(0.1f), std::log(0.6f), std::log(0.3f)};
    const auto plain = frequencies(logits, {});
    CHECK(plain[0] == doctest::Approx(0.1).epsilon(0.1));
    CHECK(plain[1] == doctest::Approx(0.6).epsilon(0.05));
    const auto cold = frequencies(logits, {.temperature = 0.5});
    CHECK(cold[1] == doctest::Approx(0.36 / 0.46).epsilon(0.05));
    CHECK(frequencies(logits, {.temperature = 0})[1] == doctest::Approx(1));
    const auto two = frequencies(logits, {.top_k = 2});
    CHECK(two[0] == 0);
    CHECK(two[2] == doctest::Approx(1.0 / 3).epsilon(0.05));
    CHECK(frequencies(logits, {.top_p = 0.5})[1] == doctest::Approx(1));
    CHECK(frequencies(logits, {.top_p = 0.85})[0] == 0);
    CHECK(frequencies({2, 2, 1}, {.temperature = 0})[0] ==
          doctest::Approx(1));  // ties go to the lower token
  }

  TEST_CASE("scores that are not numbers are refused") {
    Rng rng(1);
    CHECK_THROWS_AS(sample_token(std::vector<float>{0, NAN}, {}, rng), Error);
  }
}
