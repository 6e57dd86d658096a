#include <doctest/doctest.h>
#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/parallel_for.h"
#include "parallel/grad_sync.h"
#include "tests/mpi/env.h"
#include "tests/support/comm_laws.h"

using namespace ls;
using namespace ls::parallel;

TEST_SUITE("mpi") {
  TEST_CASE("the ranks are those of the launcher, and a plain run does not start MPI") {
    const auto launch = launched_by();
    Communicator& world = test::env().world();
    int started = 0;
    MPI_Initialized(&started);
    CHECK(launch.has_value() == (started != 0));
    CHECK(world.size() == (launch ? launch->size : 1));
    CHECK(world.rank() == (launch ? launch->rank : 0));
    CHECK(world.name() == (launch ? "mpi" : "solo"));
    CHECK(mpi_version().find("MPI") != std::string::npos);
    if (started) {
      int level = 0;
      MPI_Query_thread(&level);
      CHECK(level >= MPI_THREAD_SERIALIZED);
    }
  }

  TEST_CASE("ranks of one machine share its cores") {
    const RankEnv& env = test::env();
    Communicator& world = test::env().world();
    CHECK(env.local_size() == world.size());
    CHECK(num_threads() == env.threads());
    cpu_set_t mine;
    REQUIRE(sched_getaffinity(0, sizeof mine, &mine) == 0);
    std::vector<cpu_set_t> all(static_cast<std::size_t>(world.size()));
    world.all_gather(&mine, all.data(), sizeof mine, DType::kU8);
    int cores = 0;
    for (int core = 0; core < CPU_SETSIZE; ++core) {
      cores += std::ranges::any_of(all, [&](const cpu_set_t& s) { return CPU_ISSET(core, &s); });
    }
    const int threads = world.reduce_value(env.threads());
    CHECK(env.threads() >= 1);
    CHECK(threads <= std::max(cores, world.size()));
    if (std::ranges::all_of(all, [&](const cpu_set_t& s) { return CPU_EQUAL(&s, &mine); })) {
      CHECK(env.threads() == std::max(1, CPU_COUNT(&mine) / world.size()));
    }
  }

  TEST_CASE("MPI ranks obey the laws") {
    test::check_communicator(test::env().world());
  }

  TEST_CASE("two communicators at once on two threads") {
    Communicator& world = test::env().world();
    const auto side = world.split(0, -world.rank());
    std::vector<float> a(30001, 1.0f), b(50003, 2.0f);
    std::thread helper([&] {
      for (int i = 0; i < 20; ++i) {
        std::fill(b.begin(), b.end(), 2.0f);
        side->all_reduce(b.data(), std::ssize(b), DType::kF32);
      }
    });
    for (int i = 0; i < 20; ++i) {
      std::fill(a.begin(), a.end(), 1.0f);
      world.all_reduce(a.data(), std::ssize(a), DType::kF32);
    }
    helper.join();
    const float ranks = static_cast<float>(world.size());
    CHECK(std::ranges::all_of(a, [&](float x) { return x == ranks; }));
    CHECK(std::ranges::all_of(b, [&](float x) { return x == 2 * ranks; }));
  }

  TEST_CASE("several segments of one all_reduce") {
    Communicator& world = test::env().world();
    std::vector<std::int32_t> x(9'000'001);  // 36 MB
    std::iota(x.begin(), x.end(), world.rank());
    world.all_reduce(x.data(), std::ssize(x), DType::kI32);
    const auto ranks = static_cast<std::int32_t>(world.size());
    std::int64_t wrong = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      wrong += x[i] != ranks * static_cast<std::int32_t>(i) + ranks * (ranks - 1) / 2;
    }
    CHECK(wrong == 0);
  }

  TEST_CASE("gradients are summed, and divergence is one error that every rank sees") {
    Communicator& world = test::env().world();
    const float r = static_cast<float>(world.rank());
    std::vector<float> a(7, r), b(100'000, 2 * r);
    const std::vector<RawBuffer> grads = {{a.data(), std::ssize(a), DType::kF32},
                                          {b.data(), std::ssize(b), DType::kF32}};
    GradSync(world, 1024).sum(grads);
    const float sum = static_cast<float>(world.size() * (world.size() - 1)) / 2;
    CHECK(std::ranges::all_of(a, [&](float x) { return x == doctest::Approx(sum); }));
    CHECK(std::ranges::all_of(b, [&](float x) { return x == doctest::Approx(2 * sum); }));
    check_same_across_ranks(world, hash_buffers(grads), "the gradients");
    if (world.size() > 2) {
      std::string message;
      try {
        check_same_across_ranks(world, world.rank() == 1 ? 6 : 5, "the configuration");
      } catch (const Error& e) {
        message = e.what();
      }
      CHECK(message.find(
                "the configuration differs between ranks: rank 1 disagrees with ranks 0, 2") == 0);
    }
    world.barrier();
  }
}
