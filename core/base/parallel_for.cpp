#include "core/base/parallel_for.h"

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <system_error>

namespace ls {
namespace {
int affinity_threads() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? std::max(1, CPU_COUNT(&set)) : 1;
}
std::atomic<int>& limit() {
  static std::atomic<int> threads{affinity_threads()};
  return threads;
}

// Rounds of spinning, below a tenth of a millisecond: more than most waits between two loops, and
// few enough for another program to get the core soon.
constexpr const char* kSpins = "5000";
constexpr const char* kPolicies[] = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"};
}  // namespace

void start_with_short_spins(char** argv) {
#ifdef __GLIBC__
  if (wait_policy() == "default" && setenv("GOMP_SPINCOUNT", kSpins, 1) == 0) {
    // By its own path, which the process is then named after.
    std::error_code none;
    execv(std::filesystem::read_symlink("/proc/self/exe", none).c_str(), argv);
    unsetenv("GOMP_SPINCOUNT");  // it goes on as it is
  }
#else
  static_cast<void>(argv);
#endif
}

std::string wait_policy() {
  for (const char* name : kPolicies) {
    if (const char* value = std::getenv(name)) {
      return std::string(name) + "=" + value;
    }
  }
  return "default";
}

int num_threads() {
  return limit().load(std::memory_order_relaxed);
}

void set_num_threads(int threads) {
  limit() = threads > 0 ? threads : affinity_threads();
  omp_set_num_threads(limit());
}
}  // namespace ls
