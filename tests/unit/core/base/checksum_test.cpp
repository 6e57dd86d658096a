#include "core/base/checksum.h"

#include <doctest/doctest.h>

#include <set>
#include <vector>

using namespace ls;

TEST_SUITE("unit") {
  TEST_CASE("checksum: pieces do not matter, every bit does") {
    std::vector<unsigned char> bytes(300);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<unsigned char>(i * i + 7);
    }
    const auto sum = [&](std::size_t n, std::size_t piece) {
      Checksum c;
      for (std::size_t at = 0; at < n; at += piece) {
        c.add(bytes.data() + at, std::min(piece, n - at));
      }
      return c.value();
    };
    std::set<std::uint64_t> all;
    for (std::size_t n = 0; n <= bytes.size(); ++n) {
      all.insert(sum(n, bytes.size()));
      for (const std::size_t piece : {1, 7, 31, 32, 33, 64, 100}) {
        CHECK(sum(n, piece) == sum(n, bytes.size()));
      }
    }
    CHECK(all.size() == bytes.size() + 1);
    const std::uint64_t whole = sum(bytes.size(), 50);
    for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      bytes[bit / 8] ^= static_cast<unsigned char>(1u << bit % 8);
      CHECK(sum(bytes.size(), 50) != whole);
      bytes[bit / 8] ^= static_cast<unsigned char>(1u << bit % 8);
    }
    Checksum one, two;
    one.add_text("ab");
    one.add_text("c");
    two.add_text("a");
    two.add_text("bc");
    CHECK(one.value() != two.value());
    CHECK(Checksum().hex().size() == 16);
  }
}
