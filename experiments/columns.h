#pragma once
// How wide UTF-8 text is on a terminal.
#include <algorithm>
#include <string>
#include <string_view>

namespace ls::experiments {

inline bool begins_character(char c) {
  return (c & 0xc0) != 0x80;  // continuation bytes take no column
}
inline std::size_t columns_of(std::string_view s) {
  return static_cast<std::size_t>(std::count_if(s.begin(), s.end(), begins_character));
}
/// Bytes of the first `width` columns of a text.
inline std::size_t bytes_of(std::string_view s, std::size_t width) {
  std::size_t i = 0;
  for (std::size_t n = 0; i < s.size(); ++i) {
    n += begins_character(s[i]) ? 1 : 0;
    if (n > width) {
      break;
    }
  }
  return i;
}

}  // namespace ls::experiments
