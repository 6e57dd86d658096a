#include "tests/support/paths.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>

namespace ls::test {

std::string source_dir() {
  return LS_SOURCE_DIR;
}

std::string large_golden_dir() {
  const char* const named = std::getenv("LONGSCAN_GOLDEN");
  const std::string path = named ? named : LS_GOLDEN_DIR;
  return std::filesystem::is_directory(path) ? std::filesystem::absolute(path).string() : "";
}

std::vector<std::string> files_of(const std::string& folder, const std::string& extension) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == extension) {
      files.push_back(entry.path().string());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace ls::test
