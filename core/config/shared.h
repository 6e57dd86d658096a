#pragma once
// What reading and writing share; for the sources of core/config only.
#include <string>
#include <string_view>

#include "core/config/fields.h"

namespace ls {
struct ConfigNode;
/// Shortest text that reads back to the same double: 0.001, 1e-08, .inf.
std::string number_text(double x);
/// ">= 1 and < 2", "" if anything goes.
std::string range_text(const FieldOptions& options);
/// "a, b, c".
std::string joined(const std::vector<std::string>& names);
/// What may be written: the names of an enum, the choices of a text, or nothing.
std::vector<std::string> choices_of(const ValueOps& ops, const FieldOptions& options);
/// "integer", "list of number", "mixer", ...
std::string type_text(const ValueOps& ops);
/// A Config as a tree, every field written; with places only if they are set afterwards.
ConfigNode config_to_tree(ValueRef config);
namespace detail {
void read_node(const ConfigNode& root, ValueRef config);
}
}  // namespace ls
