#pragma once
// Registry<T>: things found by name that register themselves from their own source file.
#include <map>
#include <source_location>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/error.h"

namespace ls {

/// Names that were registered twice, with both files; main reports them before doing anything.
std::vector<std::string>& duplicate_registrations();
/// The candidate nearest to `name` by edit distance, or "" if none is near.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

/// Name -> T. `kind` ("mixer", "task") is used in messages.
template <class T>
class Registry {
 public:
  explicit Registry(std::string kind) : kind_(std::move(kind)) {}

  bool add(std::string name, T value,
           std::source_location where = std::source_location::current()) {
    auto [it, fresh] =
        items_.try_emplace(std::move(name), Item{std::move(value), where.file_name()});
    if (!fresh) {
      duplicate_registrations().push_back(kind_ + " '" + it->first + "' is registered in " +
                                          it->second.file + " and in " + where.file_name());
    }
    return fresh;
  }
  const T* find(std::string_view name) const {
    const auto it = items_.find(name);
    return it == items_.end() ? nullptr : &it->second.value;
  }
  /// @throws Error(Config) naming the nearest registered name and all of them.
  const T& at(std::string_view name) const {
    if (const T* found = find(name)) {
      return *found;
    }
    const std::vector<std::string> all = names();
    std::string list;
    for (const std::string& n : all) {
      list += (list.empty() ? "" : ", ") + n;
    }
    const std::string near = nearest_name(name, all);
    LS_FAIL(kConfig, "unknown {} '{}'{}; known: {}", kind_, std::string(name),
            near.empty() ? "" : ", did you mean '" + near + "'?", list);
  }
  /// Sorted.
  std::vector<std::string> names() const {
    std::vector<std::string> out;
    for (const auto& [name, item] : items_) {
      out.push_back(name);
    }
    return out;
  }
  const std::string& kind() const { return kind_; }

 private:
  struct Item {
    T value;
    std::string file;
  };
  std::string kind_;
  std::map<std::string, Item, std::less<>> items_;
};

}  // namespace ls
