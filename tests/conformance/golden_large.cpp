// Our ops against results of independent implementations: the large set beside the checkout, every
// case of every op. Skipped where it is not there.
#include <doctest/doctest.h>

#include "tests/support/golden_laws.h"
#include "tests/support/paths.h"
#include "tests/support/skip.h"

using namespace ls::test;

TEST_SUITE("conformance") {
  TEST_CASE("golden files: the large set") {
    const std::string large = large_golden_dir();
    if (large.empty()) {
      skipped(
          "the large set of golden files is not beside the checkout (LONGSCAN_GOLDEN names it)");
      return;
    }
    check_golden_adapters(large + "/ops");
    check_golden_files(known_golden_files(large + "/ops"));
    check_spoiled_golden_files(known_golden_files(large + "/ops"));
  }
}
