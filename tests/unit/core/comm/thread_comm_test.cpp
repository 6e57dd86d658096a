#include "core/comm/thread_comm.h"

#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "tests/support/comm_laws.h"

using namespace ls;

namespace {

struct Outcome {
  std::string error;  // what run_ranks threw
  ErrorKind kind = ErrorKind::kInternal;
  double seconds = 0;
};

Outcome outcome_of(int ranks, const std::function<void(Communicator&)>& body,
                   const ThreadRanksOptions& options = {}) {
  const auto start = std::chrono::steady_clock::now();
  Outcome outcome;
  try {
    run_ranks(ranks, body, options);
  } catch (const Error& e) {
    outcome.error = e.what();
    outcome.kind = e.kind();
  } catch (const std::exception& e) {
    outcome.error = e.what();
  }
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

void sleep_ms(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("solo communicator obeys the laws") {
    const auto solo = solo_communicator();
    test::check_communicator(*solo);
  }

  TEST_CASE("thread ranks obey the laws") {
    for (const int ranks : {1, 2, 3, 4, 5}) {
      CAPTURE(ranks);
      run_ranks(ranks, [&](Communicator& comm) {
        REQUIRE(comm.size() == ranks);
        test::check_communicator(comm);
      });
    }
  }

  TEST_CASE("a sum has the same bits whoever arrives first") {
    const auto summed = [](int late) {
      std::vector<float> result(3);
      run_ranks(4, [&](Communicator& comm) {
        float x[3] = {0.1f, 1e8f * static_cast<float>(comm.rank() - 1), 1e-3f};
        x[0] += static_cast<float>(comm.rank()) * 1e7f;
        sleep_ms(comm.rank() == late ? 20 : 0);
        comm.all_reduce(x, 3, DType::kF32);
        if (comm.rank() == 0) {
          result.assign(x, x + 3);
        }
      });
      return result;
    };
    const std::vector<float> first = summed(0);
    for (int late = 1; late < 4; ++late) {
      CHECK(summed(late) == first);
    }
  }

  TEST_CASE("a rank that throws ends the others, and its exception reaches the caller") {
    const auto waits = [](Communicator& comm, int how) {
      float x = 1;
      if (how == 0) {
        comm.all_reduce(&x, 1, DType::kF32);
      } else if (how == 1) {
        comm.recv(&x, 1, DType::kF32, 1);
      } else if (how == 2) {
        comm.send(&x, 1, DType::kF32, 1);
      } else {
        comm.split(0);
      }
    };
    for (int how = 0; how < 4; ++how) {
      CAPTURE(how);
      std::atomic<int> woken = 0;
      const Outcome outcome = outcome_of(3, [&](Communicator& comm) {
        if (comm.rank() == 1) {
          sleep_ms(20);
          throw std::runtime_error("disk is full");
        }
        try {
          waits(comm, how);
        } catch (const Error& e) {
          CHECK(e.kind() == ErrorKind::kComm);
          CHECK(contains(e.what(), "rank 1 failed: disk is full"));
          ++woken;
          throw;
        }
      });
      CHECK(outcome.error == "disk is full");
      CHECK(woken == 2);
      CHECK(outcome.seconds < 5);
    }
  }

  TEST_CASE("a failure outside a subgroup reaches it, and it stays failed") {
    const Outcome outcome = outcome_of(4, [](Communicator& comm) {
      const auto pair = comm.split(comm.rank() / 2);
      if (comm.rank() == 3) {
        throw std::runtime_error("gone");
      }
      std::vector<float> x(100000, 1.0f);
      for (int i = 0; i < 100000; ++i) {
        pair->all_reduce(x.data(), std::ssize(x), DType::kF32, ReduceOp::kMax);
      }
    });
    CHECK(outcome.error == "gone");
    CHECK(outcome.seconds < 20);
    const Outcome caught = outcome_of(2, [](Communicator& comm) {
      if (comm.rank() == 1) {
        throw std::runtime_error("gone");
      }
      CHECK_THROWS_AS(comm.barrier(), Error);
      CHECK_THROWS_AS(comm.barrier(), Error);
    });
    CHECK(caught.error == "gone");
  }

  TEST_CASE("a rank that returns early is named") {
    const Outcome outcome = outcome_of(3, [](Communicator& comm) {
      if (comm.rank() != 2) {
        comm.barrier();
      }
    });
    CHECK(outcome.kind == ErrorKind::kComm);
    CHECK(contains(outcome.error, "rank 2 has returned"));
    CHECK(contains(outcome.error, "barrier"));
    CHECK(outcome.seconds < 5);
  }

  TEST_CASE("different calls are told apart") {
    const Outcome kinds = outcome_of(2, [](Communicator& comm) {
      float x[8] = {};
      if (comm.rank() == 0) {
        comm.broadcast(x, 8, DType::kF32);
      } else {
        comm.all_reduce(x, 8, DType::kF32);
      }
    });
    CHECK(contains(kinds.error, "broadcast(8 f32 from rank 0)"));
    CHECK(contains(kinds.error, "all_reduce(sum of 8 f32)"));
    const Outcome lengths = outcome_of(3, [](Communicator& comm) {
      std::vector<double> x(10, 1.0);
      comm.all_reduce(x.data(), comm.rank() == 1 ? 9 : 10, DType::kF64);
    });
    CHECK(contains(lengths.error, "9 f64"));
    CHECK(contains(lengths.error, "10 f64"));
    const Outcome messages = outcome_of(2, [](Communicator& comm) {
      double x[2] = {};
      if (comm.rank() == 0) {
        comm.send(x, 2, DType::kF64, 1);
      } else {
        comm.recv(x, 1, DType::kF64, 0);
      }
    });
    CHECK(contains(messages.error, "rank 0 sends 16 bytes"));
    const Outcome blocks = outcome_of(2, [](Communicator& comm) {
      const std::vector<Index> in = {1, 1}, out = {1, comm.rank() == 0 ? Index{2} : Index{1}};
      float a[4] = {}, b[4] = {};
      comm.all_to_all(a, in, b, out, DType::kF32);
    });
    CHECK(contains(blocks.error, "rank 1 sends 4 bytes to rank 0, which expects 8"));
  }

  TEST_CASE("deadlock and time-out end with what every rank was doing") {
    const Outcome deadlock = outcome_of(2,
                                        [](Communicator& comm) {
                                          float x = 0;
                                          const int other = 1 - comm.rank();
                                          comm.send(&x, 1, DType::kF32, other);  // both send first
                                          comm.recv(&x, 1, DType::kF32, other);
                                        },
                                        {.stall_limit_s = 0.2});
    CHECK(contains(deadlock.error, "deadlock: rank 0 waits in send"));
    CHECK(contains(deadlock.error, "rank 1 waits in send"));
    CHECK(deadlock.seconds < 5);
    const Outcome late = outcome_of(2,
                                    [](Communicator& comm) {
                                      if (comm.rank() == 1) {
                                        sleep_ms(1500);
                                      }
                                      comm.barrier();
                                    },
                                    {.time_limit_s = 0.3});
    CHECK(contains(late.error, "no answer for 0.3 s"));
    CHECK(contains(late.error, "rank 1 works"));
    // Slow is not stalled: the limit on waiting is what counts while somebody works.
    const Outcome slow = outcome_of(2,
                                    [](Communicator& comm) {
                                      if (comm.rank() == 1) {
                                        sleep_ms(400);
                                      }
                                      comm.barrier();
                                    },
                                    {.stall_limit_s = 0.1});
    CHECK(slow.error == "");
  }

  TEST_CASE("the time limit is inherited, and read from the environment") {
    run_ranks(2, [](Communicator& comm) {
      comm.set_time_limit(12);
      CHECK(comm.split(0)->time_limit() == 12);
      CHECK(comm.reversed()->time_limit() == 12);
    });
    setenv("LONGSCAN_COMM_TIMEOUT", "2.5", 1);
    CHECK(solo_communicator()->time_limit() == 2.5);
    for (const char* wrong : {"0", "-3", "soon", "nan", "inf", "5s"}) {
      CAPTURE(wrong);
      setenv("LONGSCAN_COMM_TIMEOUT", wrong, 1);
      CHECK_THROWS_AS(default_comm_time_limit(), Error);
    }
    unsetenv("LONGSCAN_COMM_TIMEOUT");
    CHECK(default_comm_time_limit() == 600);
  }

  TEST_CASE("run_ranks refuses no ranks") {
    CHECK_THROWS_AS(run_ranks(0, [](auto&) {}), Error);
  }
}
