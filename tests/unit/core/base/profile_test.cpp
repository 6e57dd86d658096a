#include "core/base/profile.h"

#include <doctest/doctest.h>

#include <chrono>
#include <thread>

namespace ls {
namespace {

void wait_ms(int n) {
  std::this_thread::sleep_for(std::chrono::milliseconds(n));
}

TEST_SUITE("unit") {
  TEST_CASE("profile: own time, calls and costs by name and part") {
    { const profile::Scope before("not running"); }
    profile::start();
    CHECK(profile::running());
    for (int i = 0; i < 2; ++i) {
      profile::Scope outer("outer", "forward");
      outer.cost(10, 100);
      wait_ms(5);
      const profile::Scope inner("inner");
      wait_ms(20);
    }
    std::thread([] { const profile::Scope elsewhere("another thread"); }).join();
    const std::vector<profile::Entry> e = profile::stop();
    CHECK_FALSE(profile::running());
    REQUIRE(e.size() == 2);
    CHECK(e[0].name == "inner");  // the longest first
    CHECK(e[0].calls == 2);
    CHECK(e[0].seconds >= 0.04);
    CHECK(e[1].name == "outer");
    CHECK(e[1].part == "forward");
    CHECK(e[1].bytes == 20);
    CHECK(e[1].flops == 200);
    CHECK(e[1].seconds >= 0.01);
    CHECK(e[1].seconds < e[0].seconds);
    CHECK(profile::stop().empty());
  }

  TEST_CASE("profile: a scope that outlives the recording adds nothing to the next") {
    profile::start();
    {
      const profile::Scope open("open");
      profile::stop();
      profile::start();
    }
    CHECK(profile::stop().empty());
  }
}

}  // namespace
}  // namespace ls
