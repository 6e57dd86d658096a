#include "experiments/style.h"

#include <algorithm>
#include <utility>

#include "core/base/rng.h"

namespace ls::experiments {
namespace {

/// Families share a color, members have markers. Mixers that are not listed get what their name's
/// hash says, which may be another one's: then give them a line here.
constexpr std::pair<std::string_view, Style> kMixers[] = {
    {"attention", {kColors[6], Marker::kCircle}},
    {"linear_attn", {kColors[4], Marker::kCircle}},
    {"retnet", {kColors[4], Marker::kSquare}},
    {"simple_gla", {kColors[4], Marker::kUp}},
    {"gla", {kColors[2], Marker::kUp}},
    {"hgrn2", {kColors[2], Marker::kDown}},
    {"rwkv6", {kColors[2], Marker::kPentagon}},
    {"deltanet", {kColors[1], Marker::kSquare}},
    {"gated_deltanet", {kColors[0], Marker::kDiamond}},
    {"kda", {kColors[0], Marker::kUp}},
    {"mamba2", {kColors[3], Marker::kCircle}},
    {"mlstm", {kColors[3], Marker::kSquare}},
    {"gru", {kColors[5], Marker::kCircle}},
    {"lstm", {kColors[5], Marker::kSquare}},
    {"mingru", {kColors[5], Marker::kDown}},
    // Published ones that are not here yet.
    {"mamba", {kColors[3], Marker::kDown}},
    {"based", {kColors[4], Marker::kPentagon}},
    {"rwkv7", {kColors[1], Marker::kPentagon}},
    {"rwkv4", {kColors[1], Marker::kDown}},
    {"h3", {kColors[5], Marker::kDiamond}},
    {"hyena", {kColors[5], Marker::kUp}},
    {"base_conv", {kColors[3], Marker::kDiamond}},
};

constexpr Marker kMarkers[] = {Marker::kCircle,  Marker::kSquare, Marker::kUp,
                               Marker::kDiamond, Marker::kDown,   Marker::kPentagon};

}  // namespace

Style style_of(std::string_view mixers) {
  if (mixers.starts_with("(")) {
    const std::uint64_t hash = stream_id(mixers);
    return {kGrey, kMarkers[hash % std::size(kMarkers)], static_cast<int>(hash / 7 % kDashes)};
  }
  const auto known = std::ranges::find(kMixers, mixers, &std::pair<std::string_view, Style>::first);
  if (known != std::end(kMixers)) {
    return known->second;
  }
  const std::uint64_t hash = stream_id(mixers);
  return {kColors[hash % kColors.size()], kMarkers[hash / 64 % std::size(kMarkers)]};
}

Style style_number(std::size_t n) {
  return {kColors[n % kColors.size()], kMarkers[n % std::size(kMarkers)],
          static_cast<int>(n / kColors.size() % kDashes)};
}

std::vector<Style> styles_of(const std::vector<std::string>& mixers) {
  std::vector<Style> styles;
  for (std::size_t i = 0; i < mixers.size(); ++i) {
    Style style = style_of(mixers[i]);
    style.dash = static_cast<int>(std::ranges::count(
                     mixers.begin(), mixers.begin() + static_cast<std::ptrdiff_t>(i), mixers[i])) %
                 kDashes;
    styles.push_back(style);
  }
  return styles;
}

}  // namespace ls::experiments
