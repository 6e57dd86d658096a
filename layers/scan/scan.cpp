#include "layers/scan/scan.h"

namespace ls::layers {

Registry<const ScanInfo*>& scan_registry() {
  static auto* const registry = new Registry<const ScanInfo*>("scan");
  return *registry;
}

namespace {
/// All scans, for look-up by op without building names.
std::vector<const ScanInfo*>& scans() {
  static auto* const list = new std::vector<const ScanInfo*>;
  return *list;
}
}  // namespace

const ScanInfo& scan_of(const OpInfo& op, const void* attrs) {
  for (const ScanInfo* scan : scans()) {
    if (scan->op == &op && (!scan->applies || scan->applies(attrs))) {
      return *scan;
    }
  }
  LS_FAIL(kInternal, "op {} is not registered as a scan; see LS_SCAN", op.name);
}

bool detail::register_scan(ScanInfo info, const std::string& name, std::source_location where) {
  auto* const stored = new ScanInfo(std::move(info));  // lives as long as the registry
  scans().push_back(stored);
  return scan_registry().add(name, stored, where);
}

}  // namespace ls::layers
