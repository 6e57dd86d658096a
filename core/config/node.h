#pragma once
// The tree behind ConfigTree; for the sources of core/config only.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/types.h"

namespace ls {

/// Where something was written. `line` 0: `source` alone says it (an override, a Config in memory).
struct Place {
  std::shared_ptr<const std::string> source;
  int line = 0, column = 0;  ///< from 1; columns count characters
  std::string text() const;  ///< "file:line:column"
};

struct ConfigNode {
  enum class Kind : std::uint8_t { kNull, kScalar, kList, kMap };
  enum class ScalarType : std::uint8_t { kText, kNumber, kBool };
  struct Key {
    std::string text;
    Place place;
    /// Bit d: a map at depth d above was given another `name` by a later layer, so that this entry
    /// belongs to the settings of the former one.
    std::uint64_t stale = 0;
    bool overridden = false;   ///< written by an override
    bool short_form = false;   ///< the `name` that a plain scalar stood for
    bool hashed = true;        ///< when dumping
    std::string comment = {};  ///< when dumping
  };

  Kind kind = Kind::kNull;
  ScalarType type = ScalarType::kText;  ///< when dumping
  bool quoted = false;
  bool component = false;  ///< a map, when dumping
  std::string text;
  Index repeat = 1;               ///< of a list: [..] * repeat
  std::vector<Key> keys;          ///< of a map, unique
  std::vector<ConfigNode> items;  ///< of a list, or the values of a map
  Place place;

  int find(std::string_view key) const;  ///< index or -1
  /// "a map", "a list", "'text'", "nothing", for messages.
  std::string describe() const;
};

/// Largest number of values in a file, after aliases, and of elements of a repeated list.
inline constexpr Index kMaxConfigNodes = 100000;

/// One YAML document. @throws Error(Config) with the place of the fault
ConfigNode parse_yaml(std::string_view text, const std::shared_ptr<const std::string>& source);
/// Marks places as `place` itself: for overrides, whose source is the whole text.
void set_places(ConfigNode& node, const Place& place);
/// A number a YAML reader would make of plain text.
bool looks_like_number(std::string_view text);

}  // namespace ls
