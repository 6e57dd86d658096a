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

namespace {
/// All scans, for look-up by op without building names.
std::vector<const FamilyInfo*>& scans() {
  static auto* const list = new std::vector<const FamilyInfo*>;
  return *list;
}
}  // namespace

const FamilyInfo* find_family(const OpInfo& op, const void* attrs) {
  for (const FamilyInfo* scan : scans()) {
    if (scan->op == &op && (!scan->applies || scan->applies(attrs))) {
      return scan;
    }
  }
  return nullptr;
}

namespace detail {
bool register_family(FamilyInfo info, const OpInfo& op, const char* name,
                     std::source_location where) {
  auto* const stored = new FamilyInfo(std::move(info));  // lives as long as the registry
  stored->op = &op;
  scans().push_back(stored);
  return family_registry().add(name, stored, where);
}
}  // namespace detail

}  // namespace ls::layers
