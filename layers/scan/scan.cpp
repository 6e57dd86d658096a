#include "layers/scan/scan.h"

#include "core/base/registration.h"
#include "layers/scan/check_scan.h"

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

void check_scan(const ScanInfo& scan, const std::string& name) {
  const OpInfo& op = *scan.op;
  LS_CHECK(!op.name.empty(), kInternal, "scan {}: its op is not declared by LS_OP", name);
  LS_CHECK(!scan.states.empty(), kInternal, "scan {}: no .state(...): it carries nothing", name);
  for (const StatePort& port : scan.states) {
    LS_CHECK(op.input_index(port.input) >= 0, kInternal,
             "scan {}: state {} goes in through '{}', which is no input of op {} ({})", name,
             port.name, port.input, op.name, op.contract_in);
    LS_CHECK(op.output_index(port.output) >= 0, kInternal,
             "scan {}: state {} comes out of '{}', which is no output of op {} ({})", name,
             port.name, port.output, op.name, op.contract_out);
  }
  const char* const boundary = scan.boundary == Boundary::kStart ? "start" : "offsets";
  LS_CHECK(op.input_index(boundary) >= 0, kInternal,
           "scan {}: documents need an input '{}' of op {} ({})", name, boundary, op.name,
           op.contract_in);
  LS_CHECK(scan.kind == FamilyKind::kRelay || scan.summarize, kInternal,
           "scan {}: family {} is {}, so it needs .summary<...>(); without one it is relay", name,
           scan.family, enum_name(scan.kind));
}

bool detail::register_scan(ScanInfo info, const std::string& name, std::source_location where) {
  auto* const stored = new ScanInfo(std::move(info));  // lives as long as the registry
  scans().push_back(stored);
  // Ops register in any order.
  check_at_start([stored, name, file = std::string(where.file_name())] {
    try {
      check_scan(*stored, name);
    } catch (const Error& e) {
      LS_FAIL(kInternal, "{} ({})", e.message(), file);
    }
  });
  return scan_registry().add(name, stored, where);
}

}  // namespace ls::layers
