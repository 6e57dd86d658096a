#pragma once
// What two Configs differ in, and file names made independent of the working directory.
#include <string>
#include <vector>

#include "core/config/fields.h"

namespace ls {

/// One hashed field whose values differ. A list of plain values is one field; where a component has
/// another name its settings are not compared; "" stands for what is not there.
struct FieldChange {
  std::string path;  ///< "models.0.layers.1.heads"
  std::string before, after;
};

namespace detail {
std::vector<FieldChange> changed_fields(SectionValue& before, SectionValue& after);
void make_paths_absolute(SectionValue& config, const std::string& directory);
}  // namespace detail

/// Of the fields that config_hash covers, in the order of the list; empty when the hashes agree.
template <HasFields C>
std::vector<FieldChange> changed_fields(C before, C after) {
  detail::SectionOf<C> a(before), b(after);
  return detail::changed_fields(a, b);
}
/// "width: 8 -> 16, batch: 2 -> 4".
std::string changes_text(const std::vector<FieldChange>& changes);

/// Fields with FieldOptions::file that are relative become files in `directory`.
template <HasFields C>
void make_paths_absolute(C& config, const std::string& directory) {
  detail::SectionOf<C> section(config);
  detail::make_paths_absolute(section, directory);
}

}  // namespace ls
