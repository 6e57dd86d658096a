#pragma once
// Reading a Config from YAML and writing it back, see fields.h for how a Config is defined.
//
// A file is one map. `extend: other.yaml` (or a list, later ones win), in any map, takes that file,
// found beside the file that names it, as a base: it is read first, then the map itself; lists
// replace, and a component keeps the base's settings only while its name stays the same. Overrides
// are "models.0.mixer.heads=2": a dotted path, list elements by number or all of them by *, the
// value as YAML.
//
// An element {repeat: 3, of: [a, b]} of a list stands for a, b, a, b, a, b; `of` may be one element
// or a list, which may hold further repetitions.
//
// Every mistake is one ls::Error(Config) that begins file:line:column: path: (or --set TEXT: path:)
// and says what is allowed; further mistakes follow on lines of their own.
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/config/component.h"
#include "core/config/fields.h"

namespace ls {

struct ConfigNode;

/// Parsed YAML: the file with its bases, then each override.
class ConfigTree {
 public:
  /// @throws Error(Io) if a file cannot be read, Error(Config) on bad YAML, a bad `extend` or a bad
  ///   override
  static ConfigTree from_file(const std::string& path,
                              const std::vector<std::string>& overrides = {});
  /// `name` stands for the file in messages; `extend` is relative to the working directory.
  static ConfigTree from_text(std::string_view text, const std::string& name = "text",
                              const std::vector<std::string>& overrides = {});
  ConfigTree(ConfigTree&&) noexcept;
  ~ConfigTree();
  /// Maps, to be read in this order.
  const std::vector<ConfigNode>& layers() const { return layers_; }

 private:
  friend class VariedConfig;
  ConfigTree(ConfigNode file, const std::vector<std::string>& overrides);
  explicit ConfigTree(std::vector<ConfigNode> layers);
  std::vector<ConfigNode> layers_;
};

/// Where the values of a Config were written.
class ConfigPlaces {
 public:
  /// "file:line:column" (or "--set TEXT") of a dotted path, or of its nearest written parent.
  const std::string& where(std::string_view path) const;
  bool has(std::string_view path) const { return places_.find(path) != places_.end(); }
  void set(const std::string& path, std::string place) { places_[path] = std::move(place); }
  /// What lies below `path` is no longer part of the Config.
  void forget_below(const std::string& path);

 private:
  std::map<std::string, std::string, std::less<>> places_;
};

namespace detail {
ConfigPlaces read_config(const ConfigTree& tree, SectionValue&& config);
std::string dump_yaml(SectionValue&& config, bool comments);
std::string dump_json(SectionValue&& config);
std::string config_hash(SectionValue&& config);
std::string describe_fields(SectionValue& config);
/// For visitors that only read.
template <class C>
SectionOf<C> section_of(const C& config) {
  return SectionOf<C>(const_cast<C&>(config));
}
}  // namespace detail

/// Sets the fields of `config` that the tree names; the others keep their values.
/// @throws Error(Config) on unknown keys, wrong types, values out of range, missing required fields
template <HasFields C>
ConfigPlaces read_config(const ConfigTree& tree, C& config) {
  return detail::read_config(tree, detail::SectionOf<C>(config));
}
template <HasFields C>
C read_config_file(const std::string& path, const std::vector<std::string>& overrides = {}) {
  C config;
  read_config(ConfigTree::from_file(path, overrides), config);
  return config;
}
template <HasFields C>
C read_config_text(std::string_view text, const std::string& name = "text",
                   const std::vector<std::string>& overrides = {}) {
  C config;
  read_config(ConfigTree::from_text(text, name, overrides), config);
  return config;
}

/// Every field with its value, in the order of the list; reading it gives the same Config.
/// `comments`: with help and range behind each field.
template <HasFields C>
std::string dump_yaml(const C& config, bool comments = false) {
  return detail::dump_yaml(detail::section_of(config), comments);
}
/// The same as one line of JSON.
template <HasFields C>
std::string dump_json(const C& config) {
  return detail::dump_json(detail::section_of(config));
}
/// 16 hexadecimal digits, a function of the values of all fields with FieldOptions::hashed; the
/// same on every machine.
template <HasFields C>
std::string config_hash(const C& config) {
  return detail::config_hash(detail::section_of(config));
}

/// One line per field, children indented: name, type, default, range, help.
template <HasFields C>
std::string describe_config() {
  C config;
  detail::SectionOf<C> section(config);
  return detail::describe_fields(section);
}
/// The same of one registered component. @throws Error(Config) on an unknown name
std::string describe_component(const ComponentCatalog& catalog, std::string_view name);

}  // namespace ls
