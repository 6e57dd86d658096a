#pragma once
// Tables of text as RFC 4180 has them.
#include <string>
#include <vector>

namespace ls::experiments {

/// One line with its end; cells are quoted where they need it.
std::string csv_line(const std::vector<std::string>& cells);

/// A table with a header.
struct CsvTable {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  ///< each as long as the header
  std::vector<std::size_t> lines;              ///< of the text, where each row begins

  /// The cell of a row, "" where there is no such column.
  const std::string& at(std::size_t row, const std::string& column) const;
  bool has(const std::string& column) const;
};
/// Lines that begin with # are left out. @throws Error(Io) naming `path` and the line where a row
/// has another number of cells than the header, or a quote is not closed
CsvTable read_csv(const std::string& text, const std::string& path);

}  // namespace ls::experiments
