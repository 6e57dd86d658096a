#include <doctest/doctest.h>

#include "core/base/error.h"
#include "core/tensor/devices.h"
#include "core/tensor/tensor.h"

using namespace ls;

TEST_SUITE("unit") {
  TEST_CASE("devices are found by name") {
    CHECK(&device_named("cpu") == &cpu());
    CHECK(device_named("auto").describe() != "");
    CHECK(!list_devices().empty());
    for (const char* const name : {"", "gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "CPU"}) {
      CAPTURE(name);
      CHECK(!is_device_name(name));
      CHECK_THROWS_AS(device_named(name), Error);
    }
    CHECK(is_device_name("cuda"));
    CHECK(is_device_name("cuda:12"));
  }

  TEST_CASE("a GPU that is not there is one error that says why and what to do") {
    if (&device_named("auto") != &cpu()) {
      return;
    }
    try {
      device_named("cuda");
      FAIL("no error");
    } catch (const Error& e) {
      CHECK(e.kind() == ErrorKind::kDevice);
      CHECK(e.message().find("cpu") != std::string::npos);
    }
  }

  TEST_CASE("kernels are launched in the context of their call alone") {
    CHECK_THROWS_AS(RunningOn::context(), Error);
    const ExecutionContext ctx = current_context(cpu());
    {
      const RunningOn running(ctx);
      CHECK(&RunningOn::context() == &ctx);
    }
    CHECK_THROWS_AS(RunningOn::context(), Error);
  }
}
