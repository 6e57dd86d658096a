#pragma once
#include <array>
#include <cstdint>
#include <string_view>

#include "core/base/enum_names.h"
#include "core/base/types.h"

namespace ls::ops {

/// Whose log-decays a token counts.
enum class DecaySpan : std::uint8_t {
  kBehind,  ///< of the tokens behind it: what is left of it at the end
  kUpTo,    ///< its own and those before: what it reads of what came in
  kBefore,  ///< those before alone
};

/// What a stretch of tokens sums up to under decays, S = scale sum_t (dx_t x_t) (dy_t y_t)^T with
/// dx_t = exp(sum over the span of g + gk), dy_t = exp(sum over the span of gv): what keys and
/// values leave in a state, or the gradient of a state that queries read. On request also what
/// decays leave of the state before: exp(sum over all tokens).
/// @shape  x [B,T,N,K], y [B,T,M,V], g [B,T,H], gk [B,T,HK,K], gv [B,T,HV,V] or absent (0)
///         -> s [B,S,K,V], S = `heads`; with `totals` left [B,S,K or 1] by gk and g, and, with gv,
///         left_y [B,S,V]. Each of these numbers of heads divides the greatest, and neighbours
///         share one of the fewer; those that share one of S are summed
/// @units  g, gk, gv natural logs of decays
/// @dtype  x, y any float; g, gk, gv, s acc; sums of decays in f64, products in acc
/// @grad   none: it makes summaries, whose gradients scans give themselves
/// @throws Error(Shape) where numbers of heads do not divide the greatest, or where it is not S
///         with `totals`
struct DecayedSum {
  template <class T>
  struct In {
    T x, y, g, gk, gv;
  };
  template <class T>
  struct Out {
    T s, left, left_y;
  };
  struct Attrs {
    DecaySpan span = DecaySpan::kUpTo;
    double scale = 1;
    Index heads = 1;
    bool totals = false;
    void fields(auto&& f) const {
      f("span", span, "whose decays a token counts");
      f("scale", scale, "factor of everything");
      f("heads", heads, "of the sums");
      f("totals", totals, "also what is left of the state before");
    }
  };
};

}  // namespace ls::ops

template <>
struct ls::EnumNames<ls::ops::DecaySpan> {
  static constexpr std::string_view kKind = "span of decays";
  static constexpr std::array<std::string_view, 3> kNames = {"behind", "up_to", "before"};
};
