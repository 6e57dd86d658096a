#pragma once
// Filters of the command line that match nothing must not pass for success.
#include <string>

namespace ls::test {

/// After a run with these arguments: why it has tested nothing that was asked for, or "".
std::string matches_nothing(int argc, char** argv);

}  // namespace ls::test
