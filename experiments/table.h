#pragma once
// Text tables: columns aligned, numbers right.
#include <string>
#include <vector>

namespace ls::experiments {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  /// Within `width` columns where that is not 0: long texts are broken into several lines, and
  /// columns that still do not fit follow below in tables of their own, each with the first column.
  std::string str(int width = 0) const;

 private:
  using Widths = std::vector<std::size_t>;
  /// Widths of the columns: as they are, or those of text narrowed until all fit `room`.
  Widths widths(std::size_t room) const;
  std::string part(const std::vector<std::size_t>& chosen, const Widths& width) const;
  std::vector<std::vector<std::string>> rows_;
};

/// A text with its lines broken at spaces to fit `width` columns, where that is not 0. What goes on
/// in the next line stands under the last part that two spaces or more set apart.
std::string fitted(const std::string& text, int width);

}  // namespace ls::experiments
