#include "core/base/profile.h"

#include <doctest/doctest.h>

#include <chrono>
#include <memory>
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

  TEST_CASE("profile: marks of a queue, passed once or at every replay") {
    // Each mark is a second after the one before.
    struct Marks final : profile::QueueClock {
      explicit Marks(const bool& captured) : captures(captured) {}
      int mark() override { return next++; }
      bool recording() const override { return captures; }
      double seconds(int from, int to) override { return to - from; }
      const bool& captures;
      int next = 0;
    };
    bool captures = true;
    profile::start(std::make_unique<Marks>(captures));
    const int other = profile::begin_work();
    { const profile::Scope never("never replayed"); }
    const int work = profile::begin_work();
    CHECK(work != other);
    {
      profile::Scope outer("outer");
      outer.cost(10, 100);
      const profile::Scope inner("inner");
    }
    captures = false;
    { const profile::Scope once("once"); }
    for (int i = 0; i < 2; ++i) {
      profile::replayed(work);
      profile::collect();
    }
    const std::vector<profile::Entry> e = profile::stop();
    REQUIRE(e.size() == 3);
    CHECK(e[0].name == "outer");
    CHECK(e[0].calls == 2);
    CHECK(e[0].seconds == 4);  // of three seconds each, one is the inner's
    CHECK(e[0].bytes == 20);
    CHECK(e[1].name == "inner");
    CHECK(e[1].seconds == 2);
    CHECK(e[2].name == "once");
    CHECK(e[2].calls == 1);
  }
}

}  // namespace
}  // namespace ls
