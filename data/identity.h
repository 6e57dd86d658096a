#pragma once
// Which data a run was trained on, whatever the folder that holds them.
#include <fmt/core.h>

#include <string>

#include "core/base/types.h"

namespace ls::data {

/// Of one set of files. The digests are of names, in order, within their folder (of none where the
/// path is a file), and of sizes and contents, in the same order.
struct DataIdentity {
  std::string field;  ///< of the config, that names the files: "task.path"
  Index files = 0, bytes = 0;
  std::string names, content;
  friend bool operator==(const DataIdentity&, const DataIdentity&) = default;
  /// "task.path: 3 files, 9000 bytes, names 0123456789abcdef, content 0123456789abcdef".
  std::string str() const {
    return fmt::format("{}: {} file{}, {} bytes, names {}, content {}", field, files,
                       files == 1 ? "" : "s", bytes, names, content);
  }
};

}  // namespace ls::data
