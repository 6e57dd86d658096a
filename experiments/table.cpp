#include "experiments/table.h"

#include <algorithm>

namespace ls::experiments {
namespace {
// Columns on the screen: UTF-8 continuation bytes take none.
std::size_t columns(const std::string& s) {
  return static_cast<std::size_t>(
      std::count_if(s.begin(), s.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}
bool numeric(const std::string& s) {
  return !s.empty() && (s[0] == '-' || s[0] == '.' || (s[0] >= '0' && s[0] <= '9'));
}
}  // namespace

std::string Table::str() const {
  std::vector<std::size_t> width(rows_[0].size());
  for (const auto& row : rows_) {
    for (std::size_t c = 0; c < row.size(); ++c) {
      width[c] = std::max(width[c], columns(row[c]));
    }
  }
  std::string out;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (std::size_t c = 0; c < rows_[r].size(); ++c) {
      const std::string pad(width[c] - columns(rows_[r][c]), ' ');
      const std::string& below = rows_[std::min<std::size_t>(1, rows_.size() - 1)][c];
      const bool right = numeric(r == 0 ? below : rows_[r][c]);
      line += (c ? "  " : "") + (right ? pad + rows_[r][c] : rows_[r][c] + pad);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
    if (r == 0) {
      std::string rule;
      for (std::size_t c = 0; c < width.size(); ++c) {
        rule += (c ? "  " : "") + std::string(width[c], '-');
      }
      out += rule + "\n";
    }
  }
  return out;
}
}  // namespace ls::experiments
