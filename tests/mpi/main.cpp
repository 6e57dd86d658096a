// Tests that need real ranks, and programs that fail on purpose for tests/mpi/failures.sh:
//   mpirun -n N longscan_mpi_tests [--message-bytes=N] [doctest options]
//   mpirun -n N longscan_mpi_tests --fail=MODE
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/base/registration.h"
#include "tests/mpi/env.h"
#include "tests/support/filters.h"

using namespace ls;
using namespace ls::parallel;

namespace ls::test {
RankEnv*& env_slot() {
  static RankEnv* env = nullptr;
  return env;
}
RankEnv& env() {
  return *env_slot();
}
}  // namespace ls::test

namespace {

void sum_of_ten(Communicator& comm) {
  float x[10] = {};
  comm.all_reduce(x, 10, DType::kF32);
}

void sleep_s(int seconds) {
  std::this_thread::sleep_for(std::chrono::seconds(seconds));
}

/// Each is one way for a run to end badly; the return value is the exit status.
const std::map<std::string_view, int (*)(Communicator&)> kFailures = {
    {"throw",
     [](Communicator& comm) {
       if (comm.rank() == 1) {
         throw std::runtime_error("disk is full");
       }
       sum_of_ten(comm);
       return 0;
     }},
    {"throw_everywhere", [](Communicator&) -> int { throw std::runtime_error("bad config"); }},
    {"throw_after_the_others_returned",
     [](Communicator& comm) {
       if (comm.rank() == 1) {
         sleep_s(1);
         throw std::runtime_error("disk is full");
       }
       return 0;
     }},
    {"throw_in_thread",
     [](Communicator& comm) {
       if (comm.rank() == 1) {
         std::thread([] { throw std::runtime_error("disk is full"); }).join();
       }
       sum_of_ten(comm);
       return 0;
     }},
    {"hang",
     [](Communicator& comm) {
       while (comm.rank() == 1) {
         sleep_s(1);
       }
       sum_of_ten(comm);
       return 0;
     }},
    {"return_early",
     [](Communicator& comm) {
       if (comm.rank() != 1) {
         sum_of_ten(comm);
       }
       return 0;
     }},
    {"different_calls",
     [](Communicator& comm) {
       if (comm.rank() == 1) {
         comm.barrier();
       } else {
         sum_of_ten(comm);
       }
       return 0;
     }},
    {"different_lengths",
     [](Communicator& comm) {
       double x[2] = {};
       comm.all_reduce(x, comm.rank() == 1 ? 2 : 1, DType::kF64);
       return 0;
     }},
    {"killed",
     [](Communicator& comm) {
       if (comm.rank() == 1) {
         std::raise(SIGKILL);
       }
       sum_of_ten(comm);
       return 0;
     }},
    {"status", [](Communicator&) { return 3; }},
};

int run_doctest(int argc, char** argv, RankEnv& env) {
  test::env_slot() = &env;
  doctest::Context context(argc, argv);
  std::ostringstream quiet;
  if (env.world().rank() != 0) {
    context.setCout(&quiet);
  }
  int failed = context.run();
  if (const std::string fault = test::matches_nothing(argc, argv); !fault.empty()) {
    quiet << fault << "\n";
    if (env.world().rank() == 0) {
      std::fprintf(stderr, "%s\n", fault.c_str());
    }
    failed = 1;
  }
  if (failed != 0 && env.world().rank() != 0) {
    std::fprintf(stderr, "on rank %d:\n%s", env.world().rank(), quiet.str().c_str());
  }
  return env.world().reduce_value(failed, ReduceOp::kMax);
}

}  // namespace

int main(int argc, char** argv) {
  check_registrations();
  RankOptions options;
  std::string_view failure;
  std::vector<char*> rest;
  for (int i = 0; i < argc; ++i) {
    const std::string_view a = argv[i];
    if (a.starts_with("--message-bytes=")) {
      options.message_bytes = std::atoll(argv[i] + a.find('=') + 1);
    } else if (a.starts_with("--fail=")) {
      failure = a.substr(a.find('=') + 1);
    } else {
      rest.push_back(argv[i]);
    }
  }
  return run_with_ranks(
      [&](RankEnv& env) {
        if (failure.empty()) {
          return run_doctest(static_cast<int>(rest.size()), rest.data(), env);
        }
        return kFailures.at(failure)(env.world());
      },
      options);
}
