#include "core/base/box_muller.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include "core/base/rng.h"

namespace ls {
namespace {

/// Multiples of 2^-53 in [0, 1): both ends, a few steps around each eighth, where sine or cosine
/// vanish or the octant changes, every order of magnitude from either end, and even draws.
std::vector<double> uniform_numbers() {
  std::vector<double> x;
  const auto add = [&](double value) {
    if (0 <= value && value < 1) {
      x.push_back(value);
    }
  };
  for (int eighth = 0; eighth <= 8; ++eighth) {
    for (int step = -40; step <= 40; ++step) {
      add(eighth * 0.125 + step * 0x1p-53);
    }
  }
  Rng rng(1);
  for (int i = 0; i < 200000; ++i) {
    const std::uint64_t small = (rng.next_u64() >> 11) >> rng.below(53);
    add(static_cast<double>(small) * 0x1p-53);
    add(1.0 - static_cast<double>(small) * 0x1p-53);
    add(rng.uniform());
  }
  return x;
}

double error_in_ulp(double got, long double want) {
  const double size = std::fabs(static_cast<double>(want));
  const double ulp = std::nextafter(size, std::numeric_limits<double>::infinity()) - size;
  return static_cast<double>(std::fabs(static_cast<long double>(got) - want)) / ulp;
}

/// cos and sin in turn, as box_muller sees the angle.
long double circle(double v, std::size_t part) {
  const auto angle = static_cast<long double>(2.0 * std::numbers::pi * v);
  return part == 0 ? std::cos(angle) : std::sin(angle);
}

TEST_SUITE("unit") {
  TEST_CASE("box_muller: errors against the standard library") {
    const std::vector<double> u = uniform_numbers();
    std::vector<double> v = u;
    Rng(2).shuffle(v);
    const auto n = static_cast<Index>(u.size());
    std::vector<double> pairs(2 * u.size()), lengths(2 * u.size());
    box_muller(n, u.data(), v.data(), pairs.data());
    const std::vector<double> zeros(u.size());  // angles: only the radius is left
    box_muller(n, u.data(), zeros.data(), lengths.data());
    double worst = 0, worst_length = 0, worst_double = 0;
    bool along_axis = true;
    for (std::size_t i = 0; i < u.size(); ++i) {
      const long double radius = std::sqrt(-2 * std::log1p(-static_cast<long double>(u[i])));
      worst_length = std::max(worst_length, error_in_ulp(lengths[2 * i], radius));
      along_axis = along_axis && lengths[2 * i + 1] == 0;
      const double angle = 2.0 * std::numbers::pi * v[i];
      const double plain[] = {std::sqrt(-2.0 * std::log1p(-u[i])) * std::cos(angle),
                              std::sqrt(-2.0 * std::log1p(-u[i])) * std::sin(angle)};
      for (std::size_t part = 0; part < 2; ++part) {
        worst = std::max(worst, error_in_ulp(pairs[2 * i + part], radius * circle(v[i], part)));
        worst_double = std::max(worst_double, error_in_ulp(pairs[2 * i + part], plain[part]));
      }
    }
    CHECK(along_axis);
    CHECK(worst_length < 1);
    CHECK(worst < 3);
    CHECK(worst_double <= 4);  // both are off
  }

  TEST_CASE("box_muller: the same bits for one pair, for many and on every machine") {
    const std::vector<double> u = uniform_numbers();
    const std::vector<double> v(u.rbegin(), u.rend());
    std::vector<double> pairs(2 * u.size());
    box_muller(static_cast<Index>(u.size()), u.data(), v.data(), pairs.data());
    std::uint64_t hash = 0;
    bool same = true;
    for (std::size_t i = 0; i < u.size(); ++i) {
      double pair[2];
      box_muller(1, &u[i], &v[i], pair);
      for (std::size_t part = 0; part < 2; ++part) {
        const auto bits = std::bit_cast<std::uint64_t>(pair[part]);
        same = same && bits == std::bit_cast<std::uint64_t>(pairs[2 * i + part]);
        hash = mix64(hash ^ bits);
      }
    }
    CHECK(same);
    CHECK(hash == 15522014538481117969u);
  }
}

}  // namespace
}  // namespace ls
