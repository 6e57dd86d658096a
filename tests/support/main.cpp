#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <atomic>
#include <cstdio>
#include <string>

#include "core/base/error.h"
#include "core/base/registration.h"
#include "tests/support/filters.h"
#include "tests/support/skip.h"

namespace ls::test {
namespace {
std::atomic<bool> skipped_any = false;
}  // namespace

void skipped(const std::string& why) {
  skipped_any = true;
  std::printf("skipped: %s\n", why.c_str());
}

}  // namespace ls::test

int main(int argc, char** argv) {
  try {
    ls::check_registrations();
  } catch (const ls::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
  const int status = doctest::Context(argc, argv).run();
  if (const std::string fault = ls::test::matches_nothing(argc, argv); !fault.empty()) {
    std::fprintf(stderr, "%s\n", fault.c_str());
    return 1;
  }
  return status == 0 && ls::test::skipped_any ? 77 : status;  // SKIP_RETURN_CODE of the tests
}
