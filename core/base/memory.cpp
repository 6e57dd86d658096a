#include "core/base/memory.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>

namespace ls {
namespace {

/// The limit that a file of the control group gives; one without limit says "max" or a number
/// beyond any machine.
Index limit_in(const char* path) {
  Index bytes = 0;
  std::ifstream file(path);
  return file >> bytes && bytes > 0 ? bytes : std::numeric_limits<Index>::max();
}

}  // namespace

Index machine_memory() {
  static const Index bytes = [] {
    const Index pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    const Index all = pages > 0 && page > 0 ? pages * page : std::numeric_limits<Index>::max();
    return std::min({all, limit_in("/sys/fs/cgroup/memory.max"),
                     limit_in("/sys/fs/cgroup/memory/memory.limit_in_bytes")});
  }();
  return bytes;
}

}  // namespace ls
