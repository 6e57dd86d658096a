#include "core/base/rng.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <span>
#include <vector>

#include "core/base/error.h"

using namespace ls;

namespace {
using Block = std::array<std::uint32_t, 4>;

/// Pearson's statistic against equal expected counts.
double chi_square(const std::vector<Index>& counts) {
  const double total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), Index{0}));
  const double expected = total / static_cast<double>(counts.size());
  double sum = 0;
  for (const Index c : counts) {
    const double d = static_cast<double>(c) - expected;
    sum += d * d / expected;
  }
  return sum;
}
/// Mean plus five standard deviations of the statistic.
double chi_square_limit(std::size_t cells) {
  const double freedom = static_cast<double>(cells) - 1;
  return freedom + 5 * std::sqrt(2 * freedom);
}
}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("philox4x32-10 gives the published known answers") {
    CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) ==
          Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    CHECK(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
          Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
          Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
  }

  TEST_CASE("seed, stream and index each give another sequence, and always the same one") {
    std::set<std::uint64_t> first;
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
      for (std::uint64_t stream = 0; stream < 8; ++stream) {
        for (std::uint64_t index = 0; index < 8; ++index) {
          first.insert(Rng(seed, stream, index).next_u64());
          CHECK(Rng(seed, stream, index).next_u64() == Rng(seed, stream, index).next_u64());
        }
      }
    }
    CHECK(first.size() == 512);
    // Runs must stay reproducible from one version to the next: these words never change.
    CHECK(stream_id("") == 0xf52a15e9a9b5e89bu);
    CHECK(stream_id("a") == 0x02c0bdbf481420f8u);
    CHECK(Rng(1, 2, 3).next_u64() == 0x9b6f76ae1b801807u);
    CHECK(stream_id("blocks.0.mixer.q.weight") != stream_id("blocks.1.mixer.q.weight"));
    Rng a(7, "init/w", 3), b(7, stream_id("init/w"), 3);
    CHECK(a.next_u64() == b.next_u64());
  }

  TEST_CASE("uniform and normal numbers have the right moments and range") {
    Rng rng(1);
    const int n = 200000;
    double sum = 0, square = 0, n1 = 0, n2 = 0, n4 = 0;
    for (int i = 0; i < n; ++i) {
      const double u = rng.uniform();
      REQUIRE(u >= 0);
      REQUIRE(u < 1);
      sum += u;
      square += u * u;
      const double z = rng.normal();
      n1 += z;
      n2 += z * z;
      n4 += z * z * z * z;
    }
    CHECK(std::abs(sum / n - 0.5) < 0.004);
    CHECK(std::abs(square / n - 1.0 / 3) < 0.004);
    CHECK(std::abs(n1 / n) < 0.012);
    CHECK(std::abs(n2 / n - 1) < 0.02);
    CHECK(std::abs(n4 / n - 3) < 0.15);
    for (int i = 0; i < 1000; ++i) {
      const double u = rng.uniform(-2, 3);
      REQUIRE(u >= -2);
      REQUIRE(u < 3);
    }
  }

  TEST_CASE("a span of normals equals one normal after another, and so does the state after it") {
    const std::size_t lengths[] = {0, 1, 2, 3, 7, 8, 33, 255, 256, 257, 258, 1000};
    for (const std::size_t n : lengths) {
      for (int words = 0; words <= 4; ++words) {         // drawn before: not only whole blocks
        for (int normals = 0; normals < 3; ++normals) {  // one leaves a spare
          CAPTURE(n);
          CAPTURE(words);
          CAPTURE(normals);
          Rng one(12, 5, 7);
          for (int i = 0; i < words; ++i) {
            one.next_u32();
          }
          for (int i = 0; i < normals; ++i) {
            one.normal();
          }
          Rng all = one;
          std::vector<double> want(n), got(n + 1, 99.0);
          for (double& z : want) {
            z = one.normal();
          }
          all.normal(std::span(got).first(n));
          CHECK(got.back() == 99.0);
          got.pop_back();
          CHECK(got == want);
          for (int i = 0; i < 3; ++i) {
            CHECK(all.normal() == one.normal());
          }
          CHECK(all.next_u64() == one.next_u64());
        }
      }
    }
  }

  TEST_CASE("a span of normals has the right moments") {
    std::vector<double> z(400001);
    Rng(13).normal(z);
    double n1 = 0, n2 = 0, n3 = 0, n4 = 0, next = 0;
    for (std::size_t i = 0; i < z.size(); ++i) {
      n1 += z[i];
      n2 += z[i] * z[i];
      n3 += z[i] * z[i] * z[i];
      n4 += z[i] * z[i] * z[i] * z[i];
      next += i > 0 ? z[i] * z[i - 1] : 0;
    }
    const auto n = static_cast<double>(z.size());  // limits: five standard deviations
    CHECK(std::abs(n1 / n) < 5 * std::sqrt(1 / n));
    CHECK(std::abs(n2 / n - 1) < 5 * std::sqrt(2 / n));
    CHECK(std::abs(n3 / n) < 5 * std::sqrt(15 / n));
    CHECK(std::abs(n4 / n - 3) < 5 * std::sqrt(96 / n));
    CHECK(std::abs(next / n) < 5 * std::sqrt(1 / n));
  }

  TEST_CASE("below is unbiased at small, large and awkward ranges") {
    for (const Index n : {Index{2}, Index{3}, Index{7}, Index{100}}) {
      Rng rng(2, static_cast<std::uint64_t>(n));
      std::vector<Index> counts(static_cast<std::size_t>(n));
      for (int i = 0; i < 50000; ++i) {
        ++counts.at(static_cast<std::size_t>(rng.below(n)));
      }
      CHECK(chi_square(counts) < chi_square_limit(counts.size()));
    }
    // 3/4 of the word: a plain remainder or product would favour one half of the range.
    for (const Index n : {Index{3} << 30, Index{3} << 61}) {
      Rng rng(3, static_cast<std::uint64_t>(n));
      std::vector<Index> counts(3);
      for (int i = 0; i < 30000; ++i) {
        const Index x = rng.below(n);
        REQUIRE(0 <= x);
        ++counts.at(static_cast<std::size_t>(x / (n / 3)));
      }
      CHECK(chi_square(counts) < chi_square_limit(3));
    }
    CHECK(Rng(1).below(1) == 0);
    CHECK_THROWS_AS(Rng(1).below(0), Error);
  }

  TEST_CASE("samples without replacement are ordered, distinct and unbiased") {
    std::map<std::vector<Index>, Index> seen;
    for (std::uint64_t i = 0; i < 24000; ++i) {
      ++seen[Rng(4, 0, i).sample_without_replacement(4, 3)];
    }
    std::vector<Index> counts;
    for (const auto& [order, count] : seen) {
      CHECK(std::set<Index>(order.begin(), order.end()).size() == 3);
      counts.push_back(count);
    }
    CHECK(counts.size() == 24);
    CHECK(chi_square(counts) < chi_square_limit(24));
    // A huge range must not be tabulated; the draw equals the shuffle that it stands for.
    Rng rng(5);
    const std::vector<Index> big = rng.sample_without_replacement(Index{1} << 60, 1000);
    CHECK(std::set<Index>(big.begin(), big.end()).size() == 1000);
    for (const Index n : {320, 321, 400}) {  // both sides of the switch between the two methods
      Rng draw(6, "switch", static_cast<std::uint64_t>(n)), again = draw;
      std::vector<Index> all(static_cast<std::size_t>(n));
      std::iota(all.begin(), all.end(), Index{0});
      std::vector<Index> want;
      for (Index i = 0; i < 10; ++i) {
        std::swap(all[static_cast<std::size_t>(i)],
                  all[static_cast<std::size_t>(i + again.below(n - i))]);
        want.push_back(all[static_cast<std::size_t>(i)]);
      }
      CHECK(draw.sample_without_replacement(n, 10) == want);
    }
    CHECK(Rng(1).sample_without_replacement(3, 0).empty());
    CHECK_THROWS_AS(Rng(1).sample_without_replacement(3, 4), Error);
  }

  TEST_CASE("shuffle reaches every order equally often") {
    std::map<std::vector<int>, Index> seen;
    for (std::uint64_t i = 0; i < 24000; ++i) {
      std::vector<int> v{0, 1, 2, 3};
      Rng(8, 0, i).shuffle(v);
      ++seen[v];
    }
    std::vector<Index> counts;
    for (const auto& [order, count] : seen) {
      counts.push_back(count);
    }
    CHECK(counts.size() == 24);
    CHECK(chi_square(counts) < chi_square_limit(24));
  }

  TEST_CASE("a table-free permutation hits every element once and looks shuffled") {
    for (const Index n : {1, 2, 3, 5, 64, 65, 1000, 4097}) {
      const Permutation p(n, 9);
      std::vector<Index> image;
      for (Index i = 0; i < n; ++i) {
        image.push_back(p(i));
      }
      std::sort(image.begin(), image.end());
      for (Index i = 0; i < n; ++i) {
        REQUIRE(image[static_cast<std::size_t>(i)] == i);
      }
    }
    // Where element 0 goes, and the step from one image to the next, over many keys.
    std::vector<Index> place(10), step(10);
    for (std::uint64_t k = 0; k < 20000; ++k) {
      const Permutation p(10, 10, 0, k);
      ++place[static_cast<std::size_t>(p(0))];
      ++step[static_cast<std::size_t>((p(4) - p(3) + 10) % 10)];
    }
    CHECK(step[0] == 0);
    step.erase(step.begin());
    CHECK(chi_square(place) < chi_square_limit(10));
    CHECK(chi_square(step) < chi_square_limit(9));
    const Permutation huge(Index{1} << 40, 11);
    CHECK(huge(0) != huge(1));
    CHECK_THROWS_AS(Permutation(0, 1), Error);
  }
}
