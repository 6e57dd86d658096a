#include "core/base/enum_names.h"

#include <algorithm>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/registry.h"

namespace ls::detail {

std::size_t enum_index(std::string_view kind, std::span<const std::string_view> names,
                       std::string_view text) {
  const auto found = std::find(names.begin(), names.end(), text);
  if (found != names.end()) {
    return static_cast<std::size_t>(found - names.begin());
  }
  std::string all;
  for (const std::string_view name : names) {
    all += (all.empty() ? "" : ", ") + std::string(name);
  }
  const std::string near = nearest_name(text, {names.begin(), names.end()});
  LS_FAIL(kConfig, "unknown {} '{}'{}; known: {}", kind, text,
          near.empty() ? "" : ", did you mean '" + near + "'?", all);
}

}  // namespace ls::detail
