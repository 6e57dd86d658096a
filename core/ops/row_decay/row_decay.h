#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "core/base/enum_names.h"
#include "core/op/gives_y.h"

namespace ls::ops {

/// Whose log-decays a token counts.
enum class DecaySpan : std::uint8_t {
  kBehind,  ///< of the tokens behind it: what is left of it at the end
  kUpTo,    ///< its own and those before: what it reads of what came in
  kBefore,  ///< those before alone
};

/// Tokens times what is left: y_t = scale exp(sum over the span of g + gk) x_t.
/// @shape  x [B,T,N,D], g [B,T,H] or absent (0), gk [B,T,H,D] or absent (0) -> y [B,T,O,D], O the
///         greater of N and H (N without g and gk), where neighbours share one of the fewer
/// @units  g, gk natural logs of decays
/// @dtype  x any float; g, gk, y acc; sums in f64
/// @grad   exact in x; sums over the heads that share one in acc
/// @throws Error(Shape) where neither of N and H divides the other
struct RowDecay : GivesY {
  template <class T>
  struct In {
    T x, g, gk;
  };
  struct Attrs {
    DecaySpan span = DecaySpan::kUpTo;
    double scale = 1;
    void fields(auto&& f) const {
      f("span", span, "whose decays a token counts");
      f("scale", scale, "factor of everything");
    }
  };
};

}  // namespace ls::ops

template <>
struct ls::EnumNames<ls::ops::DecaySpan> {
  static constexpr std::string_view kKind = "span of decays";
  static constexpr std::array<std::string_view, 3> kNames = {"behind", "up_to", "before"};
};
