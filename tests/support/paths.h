#pragma once
#include <string>

namespace ls::test {

/// The checkout that these tests were built from.
std::string source_dir();

/// Folder of the reference results (ops/*.h5, models/): LONGSCAN_GOLDEN, or shared/golden beside
/// the checkout. Empty, with a note once on standard output, when there is none: such tests are
/// skipped.
std::string golden_dir();

}  // namespace ls::test
