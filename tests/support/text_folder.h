#pragma once
// A folder of its own with six short texts in it, removed at the end.
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "core/base/types.h"

namespace ls::test {

struct TextFolder {
  /// Texts of so many bytes each, in the folder `text` inside.
  explicit TextFolder(Index bytes) {
    namespace fs = std::filesystem;
    std::string pattern = (fs::temp_directory_path() / "longscan-texts-XXXXXX").string();
    path = mkdtemp(pattern.data());
    fs::create_directories(path + "/text");
    for (Index d = 0; d < 6; ++d) {
      std::ofstream out(path + "/text/" + std::to_string(d) + ".txt");
      for (Index i = 0; i < bytes; ++i) {
        out << "abcdefghij klmn"[(i * i + d) % 15];
      }
    }
  }
  ~TextFolder() { std::filesystem::remove_all(path); }
  TextFolder(const TextFolder&) = delete;
  TextFolder& operator=(const TextFolder&) = delete;
  std::string path;
};

}  // namespace ls::test
