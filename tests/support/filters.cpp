#include "tests/support/filters.h"

#include <doctest/doctest.h>

#include <atomic>
#include <initializer_list>
#include <string_view>

namespace ls::test {
namespace {

/// Counts what ran, so that a filter that matches nothing does not pass for success.
struct Ran : doctest::IReporter {
  static inline std::atomic<int> cases = 0, subcases = 0;
  explicit Ran(const doctest::ContextOptions&) {}
  void report_query(const doctest::QueryData&) override { ++cases; }
  void test_run_start() override {}
  void test_run_end(const doctest::TestRunStats&) override {}
  void test_case_start(const doctest::TestCaseData&) override { ++cases; }
  void test_case_reenter(const doctest::TestCaseData&) override {}
  void test_case_end(const doctest::CurrentTestCaseStats&) override {}
  void test_case_exception(const doctest::TestCaseException&) override {}
  void subcase_start(const doctest::SubcaseSignature&) override { ++subcases; }
  void subcase_end() override {}
  void log_assert(const doctest::AssertData&) override {}
  void log_message(const doctest::MessageData&) override {}
  void test_case_skipped(const doctest::TestCaseData&) override {}
};
REGISTER_LISTENER("ran", 1, Ran);

/// True where the arguments choose by one of these filters; those that exclude choose nothing.
bool chooses(int argc, char** argv, std::initializer_list<std::string_view> filters) {
  for (int i = 1; i < argc; ++i) {
    std::string_view a = argv[i];
    a.remove_prefix(a.starts_with("--") ? 2 : a.starts_with("-") ? 1 : 0);
    a.remove_prefix(a.starts_with("dt-") ? 3 : 0);
    for (const std::string_view filter : filters) {
      if (a.starts_with(filter)) {
        return true;
      }
    }
  }
  return false;
}

}  // namespace

std::string matches_nothing(int argc, char** argv) {
  if (Ran::cases == 0 &&
      chooses(argc, argv, {"tc=", "test-case=", "ts=", "test-suite=", "sf=", "source-file="})) {
    return "no test case matches the filters; -ltc lists them";
  }
  if (chooses(argc, argv, {"sc=", "subcase="}) && Ran::subcases == 0) {
    return "no subcase matches the filter -sc; the test cases ran without it";
  }
  return "";
}

}  // namespace ls::test
