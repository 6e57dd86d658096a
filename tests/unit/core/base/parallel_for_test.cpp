#include "core/base/parallel_for.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <ctime>
#include <stdexcept>
#include <thread>
#include <vector>

namespace ls {
namespace {
TEST_SUITE("unit") {
  TEST_CASE("parallel_for visits every index once") {
    for (const int threads : {1, 2, 5}) {
      set_num_threads(threads);
      for (const Index n : {0, 1, 2, 7, 1000}) {
        for (const Index grain : {0, 1, 3, 5000}) {
          std::vector<std::atomic<int>> seen(static_cast<std::size_t>(n));
          parallel_for(n, grain, [&](Index begin, Index end) {
            CHECK(begin < end);
            for (Index i = begin; i < end; ++i) {
              ++seen[static_cast<std::size_t>(i)];
            }
          });
          bool once = true;
          for (const auto& count : seen) {
            once = once && count == 1;
          }
          CHECK(once);
        }
      }
    }
    set_num_threads(0);
  }

  TEST_CASE("parallel_for is serial up to the grain and when nested") {
    set_num_threads(4);
    int calls = 0;
    parallel_for(8, 8, [&](Index, Index) { ++calls; });
    CHECK(calls == 1);
    std::atomic<int> inner{0}, outer{0};
    parallel_for(4, 1, [&](Index, Index) {
      ++outer;
      parallel_for(100, 1, [&](Index begin, Index end) { inner += end - begin == 100 ? 1 : 100; });
    });
    CHECK(inner == outer);
    set_num_threads(0);
  }

  TEST_CASE("parallel_for keeps its threads through loops of fewer pieces") {
    set_num_threads(5);
    // Pieces wait for each other, so that the caller takes none that is not its own; its pool is
    // new.
    std::thread([] {
      const auto workers = [](Index pieces) {
        std::array<pid_t, 5> ids{};
        std::atomic<Index> begun{0};
        parallel_for(pieces, 1, [&](Index begin, Index) {
          ids[static_cast<std::size_t>(begin)] = gettid();
          ++begun;
          while (begun < pieces) {
            std::this_thread::yield();
          }
        });
        return ids;
      };
      const auto before = workers(5);
      const auto few = workers(2);
      CHECK((few[0] == before[0] && few[1] == before[1] && few[2] == 0));
      CHECK(workers(5) == before);
    }).join();
    set_num_threads(0);
  }

  TEST_CASE("parallel_for: every piece runs once, whoever takes it") {
    set_num_threads(3);
    for (int loop = 0; loop < 2000; ++loop) {
      std::array<std::atomic<int>, 3> runs{};
      parallel_for(3, 1, [&](Index begin, Index end) {
        for (Index i = begin; i < end; ++i) {
          ++runs[static_cast<std::size_t>(i)];
        }
      });
      REQUIRE((runs[0] == 1 && runs[1] == 1 && runs[2] == 1));
    }
    set_num_threads(0);
  }

  TEST_CASE("parallel_for hands an exception to its caller") {
    for (const int threads : {1, 3}) {
      set_num_threads(threads);
      CHECK_THROWS_WITH_AS(parallel_for(30, 1,
                                        [](Index begin, Index end) {
                                          if (begin <= 29 && 29 < end) {
                                            throw std::runtime_error("index 29");
                                          }
                                        }),
                           "index 29", std::runtime_error);
    }
    set_num_threads(0);
    std::atomic<Index> sum{0};
    parallel_for(10, 1, [&](Index begin, Index end) { sum += end - begin; });
    CHECK(sum == 10);
  }

  TEST_CASE("parallel_for from several threads at once, many times") {
    set_num_threads(3);
    std::atomic<Index> sum{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 4; ++c) {
      callers.emplace_back([&] {
        for (int loop = 0; loop < 500; ++loop) {
          parallel_for(7, 1, [&](Index begin, Index end) { sum += end - begin; });
        }
      });
    }
    for (std::thread& caller : callers) {
      caller.join();
    }
    CHECK(sum == 4 * 500 * 7);
    set_num_threads(0);
  }

  TEST_CASE("parallel_for: threads without work sleep") {
    set_num_threads(4);
    parallel_for(4, 1, [](Index, Index) {});
    const std::clock_t before = std::clock();  // of all threads
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    CHECK(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC < 0.05);
    set_num_threads(0);
  }

  TEST_CASE("set_num_threads") {
    const int natural = num_threads();
    CHECK(natural >= 1);
    set_num_threads(7);
    CHECK(num_threads() == 7);
    set_num_threads(0);
    CHECK(num_threads() == natural);
  }
}
}  // namespace
}  // namespace ls
