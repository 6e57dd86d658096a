#pragma once
// How a mixer is drawn: the same color and marker in every figure, whatever else is in it.
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/types.h"

namespace ls::experiments {

enum class Marker : std::uint8_t { kCircle, kSquare, kUp, kDiamond, kDown, kPentagon };

struct Style {
  std::string_view color = "#0072b2";  ///< one of kColors or kGrey
  Marker marker = Marker::kCircle;
  int dash = 0;  ///< 0: solid; tells models of the same mixers apart
  bool operator==(const Style&) const = default;
};

/// Colors that people with any color vision tell apart (Okabe and Ito 2008, without the yellow).
inline constexpr std::array<std::string_view, 7> kColors = {
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"};
inline constexpr std::string_view kGrey = "#767676";
inline constexpr int kDashes = 4;

/// Of a model's mixers, each named once with plus signs between ("gated_deltanet+attention"). It
/// depends on nothing else. Baselines, "(3-gram)", are grey.
Style style_of(std::string_view mixers);
/// The n-th of lines that have no mixer of their own.
Style style_number(std::size_t n);

/// The same with dashes that tell apart those with the same mixers.
std::vector<Style> styles_of(const std::vector<std::string>& mixers);

}  // namespace ls::experiments
