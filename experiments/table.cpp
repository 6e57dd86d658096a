#include "experiments/table.h"

#include <algorithm>
#include <numeric>

#include "experiments/columns.h"

namespace ls::experiments {
namespace {

constexpr std::size_t kGap = 2;

bool numeric(const std::string& s) {
  return !s.empty() && (s[0] == '-' || s[0] == '.' || (s[0] >= '0' && s[0] <= '9'));
}

/// A text in lines of at most `width` columns, broken at spaces where that can be.
std::vector<std::string> broken(std::string text, std::size_t width) {
  std::vector<std::string> lines;
  while (columns_of(text) > width) {
    const std::size_t most = bytes_of(text, width);
    const std::size_t space = text.rfind(' ', most);
    const bool at_space = space != std::string::npos && space > 0;
    lines.push_back(text.substr(0, at_space ? space : most));
    text.erase(0, at_space ? space + 1 : most);
  }
  lines.push_back(std::move(text));
  return lines;
}

/// Where the last part of a line begins that two spaces or more set apart, within `most` bytes.
std::size_t last_part(const std::string& line, std::size_t most) {
  const std::size_t gap = line.rfind("  ", most);
  const std::size_t at = gap == std::string::npos ? gap : line.find_first_not_of(' ', gap);
  return at == std::string::npos ? 0 : at;
}

}  // namespace

std::string fitted(const std::string& text, int width) {
  if (width <= 0) {
    return text;
  }
  const auto room = static_cast<std::size_t>(width);
  std::string out;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    const std::size_t hang = last_part(line, room / 2);
    bool first = true;
    for (const std::string& part :
         broken(line.substr(hang), room - columns_of(line.substr(0, hang)))) {
      out += (first ? line.substr(0, hang) : std::string(columns_of(line.substr(0, hang)), ' ')) +
             part + "\n";
      first = false;
    }
    begin = end + 1;
  }
  return out;
}

Table::Widths Table::widths(std::size_t room) const {
  constexpr std::size_t kNarrow = 16, kName = 32;  // text, and names, are not broken into less
  Widths width(rows_[0].size()), least(rows_[0].size());
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    for (std::size_t c = 0; c < rows_[r].size(); ++c) {
      const std::size_t n = columns_of(rows_[r][c]);
      width[c] = std::max(width[c], n);
      // Headers and numbers stay on one line.
      const bool whole = r == 0 || numeric(rows_[r][c]);
      least[c] = std::max(least[c], whole ? n : c == 0 ? std::min(n, kName) : std::min(n, kNarrow));
    }
  }
  const auto total = [&] {
    return std::accumulate(width.begin(), width.end(), kGap * (width.size() - 1));
  };
  while (room > 0 && total() > room) {
    // The widest column that can give way does, down to the next one's width at most.
    std::size_t widest = width.size();
    for (std::size_t c = 0; c < width.size(); ++c) {
      if (width[c] > least[c] && (widest == width.size() || width[c] > width[widest])) {
        widest = c;
      }
    }
    if (widest == width.size()) {
      break;
    }
    --width[widest];
  }
  return width;
}

std::string Table::part(const std::vector<std::size_t>& chosen, const Widths& width) const {
  std::string out;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::vector<std::vector<std::string>> cells;
    std::size_t height = 1;
    for (const std::size_t c : chosen) {
      cells.push_back(broken(rows_[r][c], width[c]));
      height = std::max(height, cells.back().size());
    }
    for (std::size_t l = 0; l < height; ++l) {
      std::string line;
      for (std::size_t i = 0; i < chosen.size(); ++i) {
        const std::size_t c = chosen[i];
        const std::string text = l < cells[i].size() ? cells[i][l] : "";
        const std::string pad(width[c] - columns_of(text), ' ');
        const std::string& below = rows_[std::min<std::size_t>(1, rows_.size() - 1)][c];
        const bool right = numeric(r == 0 ? below : rows_[r][c]) && cells[i].size() == 1;
        line += std::string(i ? kGap : 0, ' ') + (right ? pad + text : text + pad);
      }
      line.erase(line.find_last_not_of(' ') + 1);
      out += line + "\n";
    }
    if (r == 0) {
      std::string rule;
      for (std::size_t i = 0; i < chosen.size(); ++i) {
        rule += std::string(i ? kGap : 0, ' ') + std::string(width[chosen[i]], '-');
      }
      out += rule + "\n";
    }
  }
  return out;
}

std::string Table::str(int columns) const {
  const auto room = static_cast<std::size_t>(std::max(0, columns));
  Widths width = widths(room);
  if (room > 0) {
    for (std::size_t& w : width) {
      w = std::min(w, std::max<std::size_t>(1, room));
    }
  }
  std::string out;
  std::vector<std::size_t> chosen;
  std::size_t used = 0;
  for (std::size_t c = 0; c < width.size(); ++c) {
    if (room > 0 && chosen.size() > 1 && used + kGap + width[c] > room) {
      out += part(chosen, width) + "\n";
      chosen = {0};
      used = width[0];
    }
    used += (chosen.empty() ? 0 : kGap) + width[c];
    chosen.push_back(c);
  }
  return out + part(chosen, width);
}

}  // namespace ls::experiments
