#include "experiments/csv.h"

#include <algorithm>

#include "core/base/error.h"

namespace ls::experiments {
namespace {

/// Reads rows one after the other.
class Reader {
 public:
  Reader(const std::string& text, const std::string& path) : text_(text), path_(path) {}

  /// False at the end.
  bool next(std::vector<std::string>& cells) {
    while (at_ < text_.size() && (text_[at_] == '#' || text_[at_] == '\n' || text_[at_] == '\r')) {
      at_ = std::min(text_.size(), text_.find('\n', at_));
      at_ += at_ < text_.size() ? 1 : 0;
      ++line_;
    }
    cells.clear();
    begin_ = line_;
    bool more = at_ < text_.size();
    const bool any = more;
    while (more) {
      cells.push_back(cell());
      more = at_ < text_.size() && text_[at_] == ',';
      at_ += at_ < text_.size() ? 1 : 0;  // the comma, or the end of the line
    }
    line_ += any ? 1 : 0;
    return any;
  }
  std::size_t begin() const { return begin_; }

 private:
  std::string cell() {
    std::string out;
    if (at_ < text_.size() && text_[at_] == '"') {
      for (++at_; at_ < text_.size(); ++at_) {
        if (text_[at_] == '"' && (at_ + 1 >= text_.size() || text_[at_ + 1] != '"')) {
          break;
        }
        at_ += text_[at_] == '"' ? 1 : 0;  // two stand for one
        line_ += text_[at_] == '\n' ? 1 : 0;
        out += text_[at_];
      }
      LS_CHECK(at_ < text_.size(), kIo, "{}:{}: a quote is not closed", path_, begin_);
      ++at_;
    }
    while (at_ < text_.size() && text_[at_] != ',' && text_[at_] != '\n') {
      out += text_[at_++];
    }
    if (out.ends_with('\r')) {
      out.pop_back();
    }
    return out;
  }

  const std::string& text_;
  const std::string& path_;
  std::size_t at_ = 0, line_ = 1, begin_ = 1;
};

}  // namespace

std::string csv_line(const std::vector<std::string>& cells) {
  std::string out;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    out += i == 0 ? "" : ",";
    if (cells[i].find_first_of(",\"\r\n") == std::string::npos) {
      out += cells[i];
      continue;
    }
    out += '"';
    for (const char c : cells[i]) {
      out += c == '"' ? "\"\"" : std::string(1, c);
    }
    out += '"';
  }
  return out + "\n";
}

bool CsvTable::has(const std::string& column) const {
  return std::ranges::find(header, column) != header.end();
}

const std::string& CsvTable::at(std::size_t row, const std::string& column) const {
  static const std::string nothing;
  const auto i = static_cast<std::size_t>(std::ranges::find(header, column) - header.begin());
  return i < header.size() ? rows[row][i] : nothing;
}

CsvTable read_csv(const std::string& text, const std::string& path) {
  CsvTable table;
  Reader reader(text, path);
  LS_CHECK(reader.next(table.header), kIo, "{}: is empty, expected a table with a header", path);
  for (std::vector<std::string> row; reader.next(row);) {
    LS_CHECK(row.size() == table.header.size(), kIo,
             "{}:{}: the row has {} cells, the header {}; cells with commas stand in quotes", path,
             reader.begin(), row.size(), table.header.size());
    table.rows.push_back(row);
    table.lines.push_back(reader.begin());
  }
  return table;
}

}  // namespace ls::experiments
