#include "tests/support/paths.h"

#include <cstdio>
#include <cstdlib>
#include <filesystem>

namespace ls::test {

std::string source_dir() {
  return LS_SOURCE_DIR;
}

std::string golden_dir() {
  static const std::string dir = [] {
    const char* named = std::getenv("LONGSCAN_GOLDEN");
    const std::string path = named ? named : LS_GOLDEN_DIR;
    if (std::filesystem::is_directory(path)) {
      return path;
    }
    std::printf("skipped, no golden files: %s is not a folder (LONGSCAN_GOLDEN names it)\n",
                path.c_str());
    return std::string();
  }();
  return dir;
}

}  // namespace ls::test
