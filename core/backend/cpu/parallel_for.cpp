#include "core/backend/cpu/parallel_for.h"

#include <sched.h>

#include <atomic>

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
}  // namespace

int num_threads() {
  return limit().load(std::memory_order_relaxed);
}

void set_num_threads(int threads) {
  limit() = threads > 0 ? threads : affinity_threads();
  omp_set_num_threads(limit());
}
}  // namespace ls
