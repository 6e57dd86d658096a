#include "tests/support/op_case.h"

#include "tests/support/scan_laws.h"

namespace ls::test {

Registry<OpCaseMaker>& op_cases() {
  static auto* const registry = new Registry<OpCaseMaker>("op case");
  return *registry;
}

std::vector<OpCase> cases_of(const std::string& op) {
  std::vector<OpCase> cases;
  if (const OpCaseMaker* const make = op_cases().find(op)) {
    cases = (*make)();
  }
  for (const std::string& scan : layers::scan_registry().names()) {
    const ScanCaseMaker* const make = scan_cases().find(scan);
    if (make && (*layers::scan_registry().find(scan))->op->name == op) {
      for (const OpCase& c : (*make)()) {
        cases.push_back(c);
      }
    }
  }
  return cases;
}

}  // namespace ls::test
