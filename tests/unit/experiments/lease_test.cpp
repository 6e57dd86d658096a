// Leases: one holder at a time, whoever stands still is replaced and told so.
#include "experiments/sweep/lease.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/support/text_folder.h"

using namespace ls;
using namespace ls::experiments;

namespace {

std::optional<LeaseNote> seen(LeaseWatch& watch, const std::string& name) {
  const auto all = watch.look();
  const auto at = all.find(name);
  return at == all.end() ? std::nullopt : std::optional(at->second);
}

void sleep(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("leases: one holder, a heartbeat, and nothing left afterwards") {
    const test::TextFolder folder(1);
    LeaseWatch watch(folder.path, 0.3);
    {
      const auto lease = Lease::claim(watch, "a,b=1", std::nullopt);
      REQUIRE(lease != nullptr);
      lease->tell(7, 10);
      CHECK(Lease::claim(watch, "a,b=1", std::nullopt) == nullptr);  // not even unseen
      const std::optional<LeaseNote> first = seen(watch, "a,b=1");
      REQUIRE(first);
      CHECK_FALSE(first->dead);
      sleep(0.7);
      const std::optional<LeaseNote> later = seen(watch, "a,b=1");
      CHECK(later->beat > first->beat);
      CHECK(later->step == 7);
      CHECK_FALSE(watch.expired(*later));
      CHECK(Lease::claim(watch, "a,b=1", later) == nullptr);
      lease->renew();
    }
    CHECK_FALSE(seen(watch, "a,b=1"));
  }

  TEST_CASE("leases: who stands still is replaced, once, and finds out before he writes") {
    const test::TextFolder folder(1);
    LeaseWatch watch(folder.path, 0.3), other(folder.path, 0.3);
    // Of another machine, so that only its heartbeat tells whether it lives.
    std::ofstream(folder.path + "/x.4") << R"({"beat": 3, "pid": 1, "machine": "elsewhere"})";
    CHECK(Lease::claim(watch, "x", seen(watch, "x")) == nullptr);
    CHECK(seen(other, "x"));
    sleep(0.4);
    const std::optional<LeaseNote> stale = seen(watch, "x"), too = seen(other, "x");
    const auto lease = Lease::claim(watch, "x", stale);
    REQUIRE(lease != nullptr);
    CHECK(lease->generation() == 5);
    CHECK_FALSE(std::filesystem::exists(folder.path + "/x.4"));
    CHECK(Lease::claim(other, "x", too) == nullptr);
    // Taken over in turn.
    std::ofstream(folder.path + "/x.6") << "{}";
    CHECK_THROWS_AS(lease->renew(), LeaseLost);
    CHECK(lease->lost());
    std::filesystem::remove(folder.path + "/x.6");
    CHECK_THROWS_AS(lease->renew(), LeaseLost);  // for good
  }

  TEST_CASE("leases: a lease that is done and taken anew is not the old holder's") {
    const test::TextFolder folder(1);
    LeaseWatch watch(folder.path, 60);
    const auto old = Lease::claim(watch, "x", std::nullopt);
    REQUIRE(old != nullptr);
    std::filesystem::remove(folder.path + "/x.1");
    const auto next = Lease::claim(watch, "x", std::nullopt);
    REQUIRE(next != nullptr);
    CHECK(next->generation() == old->generation());
    CHECK_THROWS_AS(old->renew(), LeaseLost);
    next->renew();
  }
}
