#include "core/base/registry.h"

#include <algorithm>
#include <numeric>

namespace ls {

std::vector<std::string>& duplicate_registrations() {
  static std::vector<std::string> list;
  return list;
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates) {
  std::string best;
  // A third of the name may differ, at least two letters, but never all of it.
  std::size_t best_distance = std::min(std::max<std::size_t>(2, name.size() / 3) + 1,
                                       std::max<std::size_t>(name.size(), 1));
  for (const std::string& c : candidates) {
    std::vector<std::size_t> row(c.size() + 1);
    std::iota(row.begin(), row.end(), 0);
    for (std::size_t i = 1; i <= name.size(); ++i) {
      std::size_t diagonal = row[0];
      row[0] = i;
      for (std::size_t j = 1; j <= c.size(); ++j) {
        const std::size_t substitute = diagonal + (name[i - 1] != c[j - 1]);
        diagonal = row[j];
        row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
      }
    }
    if (row.back() < best_distance) {
      best_distance = row.back();
      best = c;
    }
  }
  return best;
}
}  // namespace ls
