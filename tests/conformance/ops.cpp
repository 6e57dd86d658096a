// Every registered op on its cases (tests/cases).
#include <doctest/doctest.h>

#include "core/base/parallel_for.h"
#include "tests/support/op_checks.h"

using namespace ls;
using namespace ls::test;

namespace {

/// The sizes here are not worth a second thread; the thread check asks for more itself.
struct OneThread {
  OneThread() { set_num_threads(1); }
  ~OneThread() { set_num_threads(0); }
};

}  // namespace

TEST_SUITE("conformance") {
  TEST_CASE("ops") {
    for (const std::string& name : op_registry().names()) {
      if (name.starts_with("test.")) {
        continue;
      }
      SUBCASE(name.c_str()) {
        const OneThread one_thread;
        const std::vector<OpCase> cases = cases_of(name);
        CHECK_MESSAGE(!cases.empty(), "no LS_OP_CASES and no LS_SCAN_CASES for " << name);
        for (const OpCase& c : cases) {
          for (const std::string& fault : check_op(*op_registry().at(name), c)) {
            FAIL_CHECK(fault);
          }
        }
        for (const std::string& argument : unchecked_gradients(*op_registry().at(name), cases)) {
          FAIL_CHECK("the gradient of " << argument
                                        << " is checked by no case: add one, or name it "
                                        << "in no_grad of the op");
        }
      }
    }
  }

  // Where the f32 kernel is the reference, comparing them says nothing.
  TEST_CASE("ops: kernels are not their references") {
    for (const std::string& name : op_registry().names()) {
      const OpInfo& op = *op_registry().at(name);
      const Kernel* const kernel = op.kernel(DeviceType::kCpu, DType::kF32);
      CHECK_MESSAGE((kernel && kernel->forward), name << " has no forward kernel");
      CHECK_MESSAGE((!op.has_backward || (kernel && kernel->backward)),
                    name << " has no backward kernel");
    }
  }

  TEST_CASE("ops: every case is of a registered op") {
    for (const std::string& name : op_cases().names()) {
      CHECK_MESSAGE(op_registry().find(name), "cases of an unknown op " << name);
    }
  }
}
