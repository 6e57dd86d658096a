#pragma once
#include <string>

namespace ls::test {

/// Says why the rest of a test cannot run here. A test program in which something was skipped and
/// nothing failed ends with status 77, which ctest shows as Skipped, never as Passed.
void skipped(const std::string& why);

}  // namespace ls::test
