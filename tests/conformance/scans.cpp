// The laws of layers/scan/scan.h for every registered scan op.
#include <doctest/doctest.h>

#include <algorithm>

#include "tests/support/poison.h"
#include "tests/support/scan_laws.h"

using namespace ls;
using namespace ls::layers;
using namespace ls::test;

TEST_SUITE("conformance") {
  TEST_CASE("scan laws") {
    for (const std::string& name : scan_registry().names()) {
      SUBCASE(name.c_str()) {
        const ScanInfo& family = *scan_registry().at(name);
        const ScanCaseMaker* const make = scan_cases().find(name);
        const std::vector<ScanCase> cases = make ? (*make)() : std::vector<ScanCase>();
        CHECK_MESSAGE(!cases.empty(), "no LS_SCAN_CASES for " << name);
        const Poisoned poisoned;
        for (const ScanCase& c : cases) {
          CHECK_MESSAGE(&scan_of(*family.op, c.attrs.get()) == &family,
                        c.name << " is another scan of its op");
          for (const DType t : {DType::kF64, DType::kF32}) {
            for (const std::string& fault : check_scan(family, c, t)) {
              FAIL_CHECK(enum_name(t) << " " << fault);
            }
            for (const std::string& violation : take_guard_violations()) {
              FAIL_CHECK(c.name << ": " << violation);
            }
          }
        }
      }
    }
  }

  TEST_CASE("scan laws: cases belong to scans, and the promised scans are there") {
    const std::vector<std::string> names = scan_registry().names();
    for (const std::string& name : scan_cases().names()) {
      CHECK_MESSAGE(std::count(names.begin(), names.end(), name) == 1, name);
    }
    const std::pair<const char*, const char*> promised[] = {{"decayed_linear", "decayed_linear"},
                                                            {"delta_rule", "delta"},
                                                            {"short_conv", "window"},
                                                            {"token_shift", "window"},
                                                            {"sliding_window", "window"},
                                                            {"attention", "keys_values"},
                                                            {"gru", "nonlinear"},
                                                            {"lstm", "nonlinear"},
                                                            {"mlstm", "mlstm"},
                                                            {"mlstm_sigmoid", "mlstm"},
                                                            {"selective_scan", "selective"}};
    for (const auto& [name, family] : promised) {
      CAPTURE(name);
      const ScanInfo& info = *scan_registry().at(name);
      CHECK(info.family == family);
      CHECK((info.kind == FamilyKind::kRelay) == !info.summarize);
      for (const StatePort& port : info.states) {
        CHECK(info.op->input_index(port.input) >= 0);
        CHECK(info.op->output_index(port.output) >= 0);
      }
    }
  }
}
