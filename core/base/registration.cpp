#include "core/base/registration.h"

#include <fmt/format.h>

#include <utility>

#include "core/base/registry.h"

namespace ls {

namespace {
std::vector<std::function<void()>>& start_checks() {
  static std::vector<std::function<void()>> list;
  return list;
}
}  // namespace

std::vector<std::string>& registration_faults() {
  static std::vector<std::string> list;
  return list;
}

void check_at_start(std::function<void()> check) {
  start_checks().push_back(std::move(check));
}

void check_registrations() {
  std::vector<std::string> faults = duplicate_registrations();
  faults.insert(faults.end(), registration_faults().begin(), registration_faults().end());
  for (const std::function<void()>& check : start_checks()) {
    try {
      check();
    } catch (const Error& e) {
      faults.push_back(e.message());
    }
  }
  LS_CHECK(faults.empty(), kInternal, "{}", fmt::join(faults, "\n"));
}

}  // namespace ls
