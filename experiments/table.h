#pragma once
// Text tables: columns aligned, numbers right.
#include <string>
#include <vector>

namespace ls::experiments {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string str() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace ls::experiments
