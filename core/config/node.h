#pragma once
// YAML as a tree, and texts about fields; for the sources of core/config only.
#include <fmt/format.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"
#include "core/config/fields.h"

namespace ls {

/// Where something was written. `line` 0: `source` alone says it (an override).
struct Place {
  std::shared_ptr<const std::string> source;
  int line = 0, column = 0;  ///< from 1; columns count characters
  std::string text() const;  ///< "file:line:column"
};

struct ConfigNode {
  enum class Kind : std::uint8_t { kNull, kScalar, kList, kMap };
  struct Key {
    std::string text;
    Place place;
  };

  Kind kind = Kind::kNull;
  bool quoted = false;
  bool step = false;  ///< a map of one key that stands for a step in the path of an override
  std::string text;
  std::vector<Key> keys;          ///< of a map, unique
  std::vector<ConfigNode> items;  ///< of a list, or the values of a map
  std::vector<ConfigNode> bases;  ///< maps that this map extends, later ones win
  Place place;

  const ConfigNode* find(std::string_view key) const;  ///< value in a map, or null
  /// "a map", "a list", "'text'", "nothing", for messages.
  std::string describe() const;
};

/// Largest number of values in a file, after aliases, and in a Config, after repetitions.
inline constexpr Index kMaxConfigNodes = 100000;
/// The end of messages about `[a, b] * 3` and `a * 3`.
inline constexpr std::string_view kRepeatHint =
    "; a repetition is an element of the list: {repeat: 3, of: [a, b]}";

/// One YAML document. @throws Error(Config) with the place of the fault
ConfigNode parse_yaml(std::string_view text, const std::shared_ptr<const std::string>& source);

/// A file with the files that its maps extend; `blame` begins the message where there is none.
ConfigNode load_config_file(const std::string& path, const std::string& blame);
/// The same of a text, whose paths start at `directory`.
ConfigNode load_config_text(std::string_view text, const std::string& name,
                            const std::filesystem::path& directory);

/// A value for one dotted path.
struct ConfigOverride {
  std::vector<std::string> path;
  ConfigNode layer;  ///< maps of one key, the value innermost
  /// `mixer.name` chooses a component as `mixer` does, before its settings are set.
  std::size_t depth() const { return path.size() - (path.back() == "name" ? 1 : 0); }
};
/// "models.0.width" as keys. @throws Error(Config) beginning with `place`
std::vector<std::string> parse_path(std::string_view path, const Place& place);
ConfigOverride make_override(std::string_view path, ConfigNode value, const Place& place);
/// "path=value", as --set has it.
ConfigOverride parse_override(const std::string& text);
/// Layers in the order in which they are read: those near the root first.
void append_overrides(std::vector<ConfigOverride> overrides, std::vector<ConfigNode>& layers);

/// Shortest text that reads back to the same double: 0.001, 1e-08.
std::string number_text(double x);
/// ">= 1 and < 2", "" if anything goes.
std::string range_text(const FieldOptions& options);
/// The names that a field allows of a closed choice.
std::vector<std::string> allowed_names(const EnumValue& choice, const FieldOptions& options);
/// "integer", "list of number", "mixer", ...
std::string type_text(const Value& value);
/// "a, b, c".
template <class Names>
std::string joined(const Names& names, const char* separator = ", ") {
  return fmt::format("{}", fmt::join(names, separator));
}

}  // namespace ls
