#pragma once
// Reading a Config from YAML and writing it back, see fields.h for how a Config is defined.
//
// A file is one map. `extend: other.yaml` (or a list, later ones win), in any map, takes that file,
// found beside the file that names it, as a base: maps merge deeply, everything else replaces. A
// component written as a map keeps the base's settings only while its name stays the same.
// Overrides are "models.0.mixer.heads=2": a dotted path, list elements by number, the value as
// YAML. A flow list may be repeated, [a, b] * 3, quoted or not, in every field that is a list;
// fields with FieldOptions::pattern take the whole language of parse_pattern. Every mistake is one
// ls::Error(Config) that begins file:line:column: path: (or --set TEXT: path:) and says what is
// allowed; further mistakes follow on lines of their own.
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/config/component.h"
#include "core/config/fields.h"

namespace ls {

struct ConfigNode;

/// Parsed YAML with bases merged in and overrides applied; every value knows where it came from.
class ConfigTree {
 public:
  /// @throws Error(Io) if the file cannot be read, Error(Config) on bad YAML, a bad `extend` or a
  ///   bad override
  static ConfigTree from_file(const std::string& path,
                              const std::vector<std::string>& overrides = {});
  /// `name` stands for the file in messages; `extend` is relative to `directory`.
  static ConfigTree from_text(std::string_view text, const std::string& name = "text",
                              const std::string& directory = ".",
                              const std::vector<std::string>& overrides = {});
  ConfigTree(ConfigTree&&) noexcept;
  ConfigTree& operator=(ConfigTree&&) noexcept;
  ~ConfigTree();

  /// Applies overrides, those with shorter paths first, else in order.
  void set(const std::vector<std::string>& overrides);
  /// Whether a dotted path is written in the files or overrides.
  bool has(std::string_view path) const;
  /// "file:line:column" (or "--set TEXT") of a dotted path, or of its nearest written parent.
  std::string where(std::string_view path) const;
  /// Every file read: the file itself, then its bases.
  const std::vector<std::string>& files() const { return files_; }
  const ConfigNode& root() const { return *root_; }

 private:
  ConfigTree();
  std::unique_ptr<ConfigNode> root_;
  std::vector<std::string> files_;
};

struct DumpOptions {
  bool comments = false;  ///< help and range behind each field
  bool hashed_only = false;
};

/// A field as `longscan list`, `describe` and `config` show it.
struct FieldDoc {
  std::string name;
  std::string type;           ///< "integer", "list of number", "section", "mixer", ...
  std::string default_value;  ///< as YAML, "" for sections and required fields
  std::string range;          ///< ">= 1", "one of a, b", "" when anything goes
  std::string help;
  bool required = false;
  std::vector<FieldDoc> children;  ///< of a section or a list or map of sections
};

namespace detail {
void read_config(const ConfigTree& tree, ValueRef config);
void validate_config(ValueRef config, ValueRef scratch);
std::string dump_yaml(ValueRef config, const DumpOptions& options);
std::string dump_json(ValueRef config);
std::string config_hash(ValueRef config);
std::vector<FieldDoc> describe_config(ValueRef config);
template <class C>
ValueRef const_ref(const C& config) {
  return value_ref(const_cast<C&>(config));  // the visitors it is used with only read
}
}  // namespace detail

/// Sets the fields of `config` that the tree names; the others keep their values.
/// @throws Error(Config) on unknown keys, wrong types, values out of range, missing required fields
template <HasFields C>
void read_config(const ConfigTree& tree, C& config) {
  detail::read_config(tree, value_ref(config));
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
  read_config(ConfigTree::from_text(text, name, ".", overrides), config);
  return config;
}
/// Checks a Config that code has filled in. @throws Error(Config) as read_config, with paths only
template <HasFields C>
void validate_config(const C& config) {
  C scratch;
  detail::validate_config(detail::const_ref(config), value_ref(scratch));
}

/// Every field with its value, in the order of the list; reading it gives the same Config.
template <HasFields C>
std::string dump_yaml(const C& config, const DumpOptions& options = {}) {
  return detail::dump_yaml(detail::const_ref(config), options);
}
/// The same as one line of JSON; infinities are the strings "inf" and "-inf".
template <HasFields C>
std::string dump_json(const C& config) {
  return detail::dump_json(detail::const_ref(config));
}
/// 16 hexadecimal digits, a function of the values of all fields with FieldOptions::hashed; the
/// same on every machine.
template <HasFields C>
std::string config_hash(const C& config) {
  return detail::config_hash(detail::const_ref(config));
}

/// The list of fields, with the values in `config` as defaults.
template <HasFields C>
std::vector<FieldDoc> describe_config(const C& config = {}) {
  return detail::describe_config(detail::const_ref(config));
}
/// The fields of one registered component. @throws Error(Config) on an unknown name
std::vector<FieldDoc> describe_component(const ComponentCatalog& catalog, std::string_view name);
/// One line per field, children indented: name, type, default, range, help.
std::string format_fields(const std::vector<FieldDoc>& fields);

}  // namespace ls
