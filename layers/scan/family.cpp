#include "layers/scan/family.h"

namespace ls::layers {

std::string_view family_kind_name(FamilyKind kind) {
  constexpr std::string_view kNames[] = {"fixed", "growing", "relay"};
  return kNames[static_cast<int>(kind)];
}

std::string_view state_part_name(StatePart part) {
  constexpr std::string_view kNames[] = {"matrix", "vector", "conv", "kv"};
  return kNames[static_cast<int>(part)];
}

Registry<const FamilyInfo*>& family_registry() {
  static auto* const registry = new Registry<const FamilyInfo*>("scan");
  return *registry;
}

const FamilyInfo* find_family(const OpInfo& op) {
  const FamilyInfo* const* found = family_registry().find(op.name);
  return found ? *found : nullptr;
}

namespace detail {
bool register_family(FamilyInfo info, const OpInfo& op, const char* name,
                     std::source_location where) {
  auto* const stored = new FamilyInfo(std::move(info));  // lives as long as the registry
  stored->op = &op;
  return family_registry().add(name, stored, where);
}
}  // namespace detail

}  // namespace ls::layers
