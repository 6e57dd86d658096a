// Kernels of a GPU on the cases of their ops.
#include <doctest/doctest.h>

#include "tests/support/gpu.h"
#include "tests/support/op_checks.h"
#include "tests/support/skip.h"

using namespace ls;
using namespace ls::test;

TEST_SUITE("conformance") {
  TEST_CASE("ops on a GPU") {
    Device* const device = gpu();
    if (!device) {
      skipped("ops on a GPU: there is none that this program can use");
      return;
    }
    for (const std::string& name : op_registry().names()) {
      const OpInfo& op = *op_registry().at(name);
      if (name.starts_with("test.") || !op.kernel(device->type(), DType::kF32)) {
        continue;
      }
      SUBCASE(name.c_str()) {
        for (const OpCase& c : cases_of(name)) {
          for (const std::string& fault : check_op_on(*device, op, c)) {
            FAIL_CHECK(fault);
          }
        }
      }
    }
  }
}
