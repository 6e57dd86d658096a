#pragma once
#include <string>
#include <vector>

namespace ls::test {

/// The checkout that these tests were built from.
std::string source_dir();

/// Folder of the large set of reference results (ops/*.h5, models/): LONGSCAN_GOLDEN, or
/// shared/golden beside the checkout. Empty when there is none.
std::string large_golden_dir();

/// The files of a folder that end in `extension`, in order.
std::vector<std::string> files_of(const std::string& folder, const std::string& extension);

}  // namespace ls::test
