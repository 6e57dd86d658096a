#include "experiments/heat_map.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/base/error.h"

namespace ls::experiments {
namespace {

constexpr int kCell = 64, kRow = 34, kLeft = 120, kTop = 56, kBottom = 64, kKey = 150;

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
  }
  return out;
}

/// From pale yellow over green to dark blue: falling in lightness all the way, so that it reads in
/// grey and with any color vision.
std::array<int, 3> color_of(double v) {
  constexpr std::array<std::array<double, 3>, 4> kStops = {
      {{255, 255, 217}, {127, 205, 187}, {29, 125, 182}, {8, 29, 88}}};
  const double at = std::clamp(v, 0.0, 1.0) * (kStops.size() - 1);
  const auto i = std::min(static_cast<std::size_t>(at), kStops.size() - 2);
  const double share = at - static_cast<double>(i);
  std::array<int, 3> out{};
  for (std::size_t c = 0; c < 3; ++c) {
    out[c] = static_cast<int>(std::lround((1 - share) * kStops[i][c] + share * kStops[i + 1][c]));
  }
  return out;
}

std::string fill_of(double v) {
  const auto [r, g, b] = color_of(v);
  return fmt::format("#{:02x}{:02x}{:02x}", r, g, b);
}

std::string text_at(int x, int y, const std::string& anchor, const std::string& text,
                    const std::string& more = "") {
  return fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor, more,
                     escaped(text));
}

std::string cell(const HeatMap& map, std::size_t row, std::size_t column, int x, int y) {
  const double v = map.values[row][column];
  const bool known = std::isfinite(v);
  std::string out = fmt::format(
      "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\" stroke=\"#ffffff\"/>\n", x, y,
      kCell, kRow, known ? fill_of(v) : "#e4e4e4");
  const char* const ink = known && v > 0.55 ? " fill=\"#ffffff\"" : "";
  return out + text_at(x + kCell / 2, y + kRow / 2 + 4, "middle",
                       known ? fmt::format("{:.2f}", v) : map.missing, ink);
}

}  // namespace

std::string heat_map_svg(const HeatMap& map) {
  const int columns = static_cast<int>(map.x.size()), rows = static_cast<int>(map.y.size());
  LS_CHECK(map.values.size() == map.y.size(), kInternal, "{} rows of cells for {} labels",
           map.values.size(), map.y.size());
  const int width = kLeft + columns * kCell + kKey, height = kTop + rows * kRow + kBottom;
  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} "
      "{1}\" font-family=\"sans-serif\" font-size=\"12\" role=\"img\">\n<title>{2}</title>\n<rect "
      "width=\"{0}\" height=\"{1}\" fill=\"#ffffff\"/>\n",
      width, height, escaped(map.title));
  out += text_at(kLeft, 28, "start", map.title, " font-size=\"15\"");
  for (int row = 0; row < rows; ++row) {
    const auto r = static_cast<std::size_t>(row);
    const int y = kTop + (rows - 1 - row) * kRow;
    out += text_at(kLeft - 8, y + kRow / 2 + 4, "end", map.y[r]);
    for (int column = 0; column < columns; ++column) {
      out += cell(map, r, static_cast<std::size_t>(column), kLeft + column * kCell, y);
    }
  }
  const int foot = kTop + rows * kRow;
  for (int column = 0; column < columns; ++column) {
    out += text_at(kLeft + column * kCell + kCell / 2, foot + 18, "middle",
                   map.x[static_cast<std::size_t>(column)]);
  }
  out += text_at(kLeft + columns * kCell / 2, foot + 42, "middle", map.x_label);
  const int middle = kTop + rows * kRow / 2;
  out += text_at(24, middle, "middle", map.y_label,
                 fmt::format(" transform=\"rotate(-90 24 {})\"", middle));
  const int key = kLeft + columns * kCell + 24;
  out += text_at(key, kTop - 8, "start", map.value_label);
  constexpr int kSteps = 5;
  for (int i = 0; i < kSteps; ++i) {
    const double v = 1 - static_cast<double>(i) / (kSteps - 1);
    out += fmt::format(
        "<rect x=\"{}\" y=\"{}\" width=\"18\" height=\"18\" fill=\"{}\" stroke=\"#888888\"/>\n",
        key, kTop + 22 * i, fill_of(v));
    out += text_at(key + 26, kTop + 22 * i + 13, "start", fmt::format("{:.2f}", v));
  }
  return out + "</svg>\n";
}

}  // namespace ls::experiments
